"""One configuration file a system; `FILE.py:variant` chooses a row of its tables."""
