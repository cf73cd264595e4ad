"""What a cell learns or measures, one file a method; their settings and registry are in `settings.py`."""
