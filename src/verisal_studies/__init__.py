"""Published claims, tested: a study reads an evaluation, judges each claim and becomes a page."""

from verisal_studies.baseline_choice import BaselineChoice
from verisal_studies.baseline_choice_elsewhere import BaselineChoiceElsewhere
from verisal_studies.beyond_images import DecoysBeyondImages
from verisal_studies.decoy_grid import DecoyGrid
from verisal_studies.decoys import DecoyStudy
from verisal_studies.input_perturbations import InputPerturbations
from verisal_studies.map_robustness import MapRobustness
from verisal_studies.page_callback import StudyPage
from verisal_studies.patch_localisation import PatchLocalisation
from verisal_studies.reliable_detection import ReliableDetection
from verisal_studies.reliable_saliency import ReliableSaliency
from verisal_studies.study import (
    Finding,
    Section,
    Study,
    StudyFigure,
    StudyResult,
    Verdict,
    page_text,
    write_page,
)

__all__ = [
    "BaselineChoice", "BaselineChoiceElsewhere", "DecoyGrid", "DecoyStudy", "DecoysBeyondImages", "Finding",
    "InputPerturbations", "MapRobustness", "PatchLocalisation", "ReliableDetection", "ReliableSaliency",
    "Section", "Study", "StudyFigure", "StudyPage", "StudyResult", "Verdict", "page_text", "write_page",
]  # fmt: skip
