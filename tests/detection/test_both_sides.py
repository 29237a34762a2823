"""Images that are not square keep their sides, from the file to an alarm and to a mask network."""

import numpy as np
import pytest
import torch
from lightning import Trainer
from PIL import Image
from torch import nn

from verisal.attacks import FGSM
from verisal.data import AnnotatedImages, ImageData, ImageFolder, ImageSplits
from verisal.data.decode import Frame
from verisal.detection import Alarm, load_alarm
from verisal.models import Classifier, SmallResNet, export_classifier
from verisal.tasks import MaskerTask

HEIGHT, WIDTH = 48, 64


def classifier(size=(HEIGHT, WIDTH)):
    """Bright images are of class 1; images of another height or width do not fit the head."""
    network = nn.Sequential(nn.Conv2d(3, 2, 8, stride=8), nn.Flatten(1), nn.Linear(2 * 6 * 8, 2))
    with torch.no_grad():
        network[0].weight.fill_(1 / 192)
        network[0].bias.zero_()
        network[2].weight.copy_(torch.tensor([[-20.0], [20.0]]).expand(2, 96) / 96)
        network[2].bias.copy_(torch.tensor([10.0, -10.0]))
    names = ["dark", "bright"]
    return Classifier(network, ["0"], normalization="none", class_names=names, image_size=size)


def pictures(count=240):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    base = 0.47 + 0.06 * labels.float().view(-1, 1, 1, 1)
    return (base + 0.1 * torch.randn(count, 3, HEIGHT, WIDTH, generator=generator)).clamp(0, 1), labels


def test_an_alarm_keeps_the_sides_in_its_file(tmp_path):
    images, labels = pictures()
    made = Alarm.fit(classifier(), images, labels, attacks=[FGSM(16 / 255)], false_alarms=0.2, progress=False)
    assert made.fits()
    made.save(tmp_path / "alarm.safetensors")
    again = load_alarm(tmp_path / "alarm.safetensors", classifier())
    torch.testing.assert_close(again(images[:9]).scores, made(images[:9]).scores)
    # One that has not seen an image yet takes the sides of the alarm.
    assert made.beside(classifier(None)).classifier.height_and_width == (HEIGHT, WIDTH)
    assert load_alarm(tmp_path / "alarm.safetensors", classifier(None)).classifier.height_and_width == (
        HEIGHT,
        WIDTH,
    )


def test_a_frame_of_two_sides_takes_images_masks_and_boxes_alike():
    frame = Frame.around(96, 200, size=(HEIGHT, WIDTH))
    assert (frame.scaled, frame.size) == ((48, 100), (48, 64))
    image = torch.zeros(1, 96, 200)
    image[:, 20:60, 50:90] = 1
    found = frame.image(image)
    assert found.shape == (1, HEIGHT, WIDTH)
    assert frame.boxes(torch.tensor([[50.0, 20.0, 90.0, 60.0]])).tolist() == [[7.0, 10.0, 27.0, 30.0]]
    assert frame.masks(image > 0).nonzero()[:, 1:].aminmax(dim=0).max.tolist() == [29, 26]
    assert frame.boxes(torch.tensor([[0.0, 0.0, 200.0, 96.0]])).tolist() == [[0.0, 0.0, 64.0, 48.0]]
    # One that is higher than the frame is fitted by its width.
    assert Frame.around(200, 64, size=(HEIGHT, WIDTH)).scaled == (200, 64)


@pytest.fixture
def photos(tmp_path):
    """A folder of pictures of two classes, and an export of a small network for 48 x 64 px."""
    rng = np.random.default_rng(0)
    for number in range(40):
        name = ("dark", "bright")[number % 2]
        (tmp_path / "photos" / name).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 120, (100, 140, 3), np.uint8) + np.uint8(120 * (number % 2))
        Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number:02d}.png")
    network = SmallResNet(2, widths=(4, 6, 8, 8)).eval()
    small = Classifier(
        network, normalization="none", class_names=["dark", "bright"], image_size=(HEIGHT, WIDTH)
    )
    export_classifier(tmp_path / "small.safetensors", small, origin={})
    return tmp_path


def test_a_data_set_on_disk_keeps_the_sides(photos):
    splits = ImageSplits(images=ImageFolder(root=str(photos / "photos")))
    data = AnnotatedImages(splits, "fit", classifier=str(photos / "small.safetensors"))
    sample = data[0]
    assert sample.image.shape == (3, HEIGHT, WIDTH)
    assert sample.object_masks.shape == (0, HEIGHT, WIDTH)
    assert data.identity()["size"] == (HEIGHT, WIDTH)


def test_a_mask_network_is_trained_on_images_that_are_not_square(photos):
    name = str(photos / "small.safetensors")
    splits = ImageSplits(images=ImageFolder(root=str(photos / "photos")), ratios=(0.5, 0.25, 0.25))
    task = MaskerTask(
        classifier=name, optimised_steps=(20,), refine_steps=(1,), compare_images=2, resamples=10
    )
    data = ImageData(classifier=name, splits=splits, batch_size=4, num_workers=0)
    Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, inference_mode=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    ).fit(task, data)  # fmt: skip
    batch = next(iter(data.val_dataloader()))
    assert batch.images.shape[1:] == (3, HEIGHT, WIDTH)
    outputs = task.classifier.stage_outputs(batch.images)
    gates = task(outputs, outputs.logits.argmax(dim=1))
    assert [gate.shape for gate in gates] == [part.shape for part in outputs.activations]
