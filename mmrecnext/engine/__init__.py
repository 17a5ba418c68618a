"""What runs whole detectors and segmentors."""
