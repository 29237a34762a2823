"""A torchvision network, a folder of images, W&B (pip install .): torchvision_wandb.py [FOLDER]."""

from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from shapes import image_folder
from torch.nn.functional import cross_entropy
from torch.optim import Adam
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.models import shufflenet_v2_x0_5
from torchvision.transforms import Compose, Normalize, Resize, ToTensor

from verisal.callbacks import DisturbedLocalization, PerturbationCurves, SaliencyMetrics, SaliencyPanels
from verisal.metrics import PerturbationCurve, SensitivityMax
from verisal.saliency import GradCAM, Gradient


class Network(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = shufflenet_v2_x0_5(num_classes=3)

    def training_step(self, batch):
        return cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch):
        self.log("val/loss", cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self):
        return Adam(self.parameters())


prepare = Compose([Resize((64, 64)), ToTensor(), Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])
train, val = (ImageFolder(image_folder(part), prepare) for part in ("train", "val"))
methods = [GradCAM(), Gradient()]
metrics = SaliencyMetrics(methods, [PerturbationCurve("deletion", steps=8), SensitivityMax(samples=2)])
curves = PerturbationCurves(methods, kinds=["insertion", "lerf"], steps=8)
callbacks = [metrics, curves, DisturbedLocalization(methods), SaliencyPanels(methods, max_images=4)]
trainer = Trainer(max_epochs=2, logger=WandbLogger(project="shapes", offline=True), callbacks=callbacks)
trainer.fit(Network(), DataLoader(train, 16, shuffle=True), DataLoader(val, 16))
