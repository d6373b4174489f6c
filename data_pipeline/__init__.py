"""Scans and masks from disk to tensors: reading, geometry, intensity, tiles, augmentation."""
