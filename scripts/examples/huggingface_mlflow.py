"""A Hugging Face network with batches as dicts, MLflow (pip install . transformers mlflow)."""

from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import MLFlowLogger
from shapes import image_folder
from torch import optim, tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from verisal.callbacks import SaliencyMetrics, SaliencyPanels
from verisal.metrics import PerturbationCurve
from verisal.saliency import EvidenceMasks, Gradient


class Network(LightningModule):
    def __init__(self):
        super().__init__()
        self.model = ViTForImageClassification(ViTConfig(hidden_size=48, image_size=64, num_labels=3))

    def training_step(self, batch):
        return self.model(**batch).loss

    def configure_optimizers(self):
        return optim.AdamW(self.parameters(), lr=1e-3)

    validation_step = training_step


def stack(samples):
    images, labels = zip(*samples, strict=True)
    return {**processor(images, return_tensors="pt"), "labels": tensor(labels)}


processor = ViTImageProcessor(size={"height": 64, "width": 64})
train, val = (DataLoader(ImageFolder(image_folder(part)), 15, collate_fn=stack) for part in ("train", "val"))
methods = [Gradient(), EvidenceMasks()]
metrics = SaliencyMetrics(methods, [PerturbationCurve("deletion", steps=8)], normalization=processor)
trainer = Trainer(max_epochs=2, logger=MLFlowLogger("shapes"), callbacks=[metrics, SaliencyPanels(methods)])
trainer.fit(Network(), train, val)
