"""X-rays: a network of torchxrayvision and DICOM. pip install 'verisal[xray]'; xray.py [FILE [WEIGHTS]]."""

import sys

import torchxrayvision
from pydicom.data import get_testdata_file

from verisal.attacks import PGD
from verisal.data import ImageReader, resize_image
from verisal.models import ClassLogit, load_classifier
from verisal.saliency import EvidenceMasks, GradCAM, Occlusion

file, weights = [*sys.argv[1:], None, None][:2]
network = torchxrayvision.models.DenseNet(weights=weights, num_classes=18).eval()
# Logits, for which there are gradients everywhere; verisal makes probabilities of them itself.
network.apply_sigmoid, network.op_threshs = False, None
names = [name or f"unused {place}" for place, name in enumerate(torchxrayvision.datasets.default_pathologies)]
xray = load_classifier(network, bounds=(-1024, 1024), image_size=224, class_names=names, output="sigmoid")

# Without a file, a slice of CT that pydicom ships: air is -1000 and bone above 300.
reader = ImageReader.of(xray, window=None if file else (40, 400))
images = resize_image(reader(file or get_testdata_file("CT_small.dcm")), 224)[None]
probabilities = xray(images).sigmoid()[0]
likeliest = int(probabilities.argmax())
print(f"{names[likeliest]}: {probabilities[likeliest]:.3f}")
for method in (GradCAM(), Occlusion(window=56, stride=28, score="logit")):
    result = method(xray, images, likeliest)
    result.plot(images).savefig(f"{type(method).__name__}.png")
    print(result)
masks = EvidenceMasks()(xray, images, target=ClassLogit(likeliest))
masks.plot(images).savefig("EvidenceMasks.png")
print(PGD(4 / 255)(xray, images, [likeliest]))
