"""Whether planted defects choose the setting that real ones would have chosen."""
