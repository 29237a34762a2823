"""Claims of the reliable saliency paper."""
