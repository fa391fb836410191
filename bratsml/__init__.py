"""Experiment platform for 3-D brain-tumour segmentation on BraTS MRI."""
