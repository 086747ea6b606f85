"""MPII Human Pose: annotations, ground truth, and the measure PCKh."""
