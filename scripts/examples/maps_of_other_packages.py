"""Maps of other packages under our metrics (pip install '.[scenes]' captum grad-cam torchcam)."""

import captum.attr
import pytorch_grad_cam
import torchcam.methods
from torchmetrics import MetricCollection

from verisal.data import EmojiScenes
from verisal.metrics import EnergyInside, PerturbationCurve, PointingGame
from verisal.models import load_classifier
from verisal.saliency import CaptumAdapter, GradCamAdapter, Saliency, TorchCamAdapter

classifier = load_classifier("emoji_scenes_64")
batch = EmojiScenes("det_test", 16).stack(range(16))
layer = classifier.network.stage4
methods: dict[str, Saliency] = {
    "captum": CaptumAdapter(method=captum.attr.IntegratedGradients(classifier)),
    "pytorch-grad-cam": GradCamAdapter(cam=pytorch_grad_cam.GradCAM(classifier, target_layers=[layer])),
    "torch-cam": TorchCamAdapter(extractor=torchcam.methods.LayerCAM(classifier, layer)),
}
for name, method in methods.items():
    metrics = MetricCollection([PointingGame(), EnergyInside(), PerturbationCurve(kind="deletion")])
    metrics.update(
        method(classifier, batch.images), boxes=batch.boxes, images=batch.images, classifier=classifier
    )
    print(name, {metric: f"{value:.3f}" for metric, value in metrics.compute().items()})
