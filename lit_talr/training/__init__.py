"""What surrounds an optimizer step: checks, schedules, resume, the non-finite guard, the base model's numbers."""
