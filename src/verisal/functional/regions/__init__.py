"""Boxes, components, and how well maps find objects."""

from verisal.functional.regions.boxes import best_ious, components, largest_boxes, map_levels
from verisal.functional.regions.disturbed import disturbed_queries
from verisal.functional.regions.localisation import (
    choose_threshold,
    energy_inside,
    frozen_boxes,
    largest_component_ious,
    masks_from_boxes,
    multi_component_ious,
    pixel_average_precision,
    pointing_hits,
)

__all__ = [
    "best_ious",
    "choose_threshold",
    "components",
    "disturbed_queries",
    "energy_inside",
    "frozen_boxes",
    "largest_boxes",
    "largest_component_ious",
    "map_levels",
    "masks_from_boxes",
    "multi_component_ious",
    "pixel_average_precision",
    "pointing_hits",
]
