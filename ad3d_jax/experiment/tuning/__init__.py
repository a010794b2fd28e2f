"""From a folder of good parts and a budget to a fitted, calibrated detector.

Systems and their settings are tried on defects that are planted into good samples, the
one of the best mean rank is fitted whole, and a page says why it was chosen.
"""
