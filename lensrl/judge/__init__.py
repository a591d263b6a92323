"""The claims of the middle-layer account: their tests, the verdict on all of them, and its calibration."""
