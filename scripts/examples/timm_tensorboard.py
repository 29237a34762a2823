"""A timm network, its own transform (pip install . timm tensorboard): timm_tensorboard.py [FOLDER]."""

import timm
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from shapes import image_folder
from torch import nn, optim
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from verisal.callbacks import SaliencyMetrics, SaliencyPanels
from verisal.metrics import RelevanceGap
from verisal.saliency import GradCAM, IntegratedGradients


class Network(LightningModule):
    def __init__(self):
        super().__init__()
        self.model = timm.create_model("test_resnet.r160_in1k", num_classes=3)

    def training_step(self, batch):
        return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

    def validation_step(self, batch):
        self.log("val/loss", nn.functional.cross_entropy(self.model(batch[0]), batch[1]))

    def configure_optimizers(self):
        return optim.AdamW(self.parameters(), lr=3e-3)


network = Network()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network.model))
train, val = (ImageFolder(image_folder(part), transform) for part in ("train", "val"))
methods = {"cam": GradCAM(), "integrated": IntegratedGradients(steps=5)}
metrics = SaliencyMetrics(methods, [RelevanceGap(steps=8)])
best = ModelCheckpoint(monitor="val/cam/relevance_gap", mode="max")
callbacks = [metrics, SaliencyPanels(methods, max_images=4), best]
trainer = Trainer(max_epochs=2, logger=TensorBoardLogger("logs"), callbacks=callbacks)
trainer.fit(network, DataLoader(train, 16, shuffle=True), DataLoader(val, 16))
