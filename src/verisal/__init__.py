"""Saliency maps and adversarial-input alarms that can be trusted."""

import os

# albumentations asks the network for its newest version at import; jsonargparse offers shell completion and a
# JSON schema only when told before the parser is built.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("JSONARGPARSE_ADD_PRINT_COMPLETION_ARGUMENT", "true")

__version__ = "0.1.0"

__all__ = ["__version__"]
