"""An optimizer step's surroundings: checks, schedules, resume, the non-finite guard, the base model's numbers."""
