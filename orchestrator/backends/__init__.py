"""The backends by name, and the record of what each was handed."""
