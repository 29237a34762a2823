"""Boxes and D-WSOL (pip install .): does a map find the object, and only when it is asked for it?"""

import torch
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from shapes import ShapesWithBoxes, columns
from torch.nn import AdaptiveAvgPool2d, BatchNorm2d, Conv2d, Flatten, Linear, ReLU, Sequential
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from verisal.callbacks import DisturbedLocalization, SaliencyMetrics, SaliencyPanels
from verisal.metrics import EnergyInside, PointingGame
from verisal.saliency import EvidenceMasks, GradCAM


class Network(LightningModule):
    def __init__(self):
        super().__init__()
        blocks = [Sequential(Conv2d(n, 32, 3, 2, 1), BatchNorm2d(32), ReLU()) for n in (3, 32, 32)]
        self.net = Sequential(*blocks, AdaptiveAvgPool2d(1), Flatten(), Linear(32, 3))

    def training_step(self, batch):
        images, targets = batch  # as torchvision's detectors take them: lists of images and of dicts
        labels = torch.stack([target["labels"][0] for target in targets])
        return cross_entropy(self.net(torch.stack(images)), labels)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)

    validation_step = training_step


seed_everything(0)
train, val, tuning = (ShapesWithBoxes(first, count) for first, count in ((0, 240), (300, 60), (400, 40)))
methods = [GradCAM(), EvidenceMasks()]
metrics = SaliencyMetrics(methods, [PointingGame(), EnergyInside()])
callbacks = [metrics, DisturbedLocalization(methods, held_out=tuning), SaliencyPanels(methods, max_images=4)]
trainer = Trainer(max_epochs=2, logger=CSVLogger("logs"), callbacks=callbacks)
train, val = (DataLoader(data, 16, collate_fn=columns) for data in (train, val))
trainer.fit(Network(), train, val)
