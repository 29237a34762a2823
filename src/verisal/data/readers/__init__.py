"""Readers of data sets on disk: folders, CSV, COCO, Pascal VOC, ImageNet, and known data sets by name."""
