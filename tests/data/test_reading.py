"""Files of any kind as a classifier takes them."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from verisal.data import ImageReader, decode_image
from verisal.errors import ConfigError, DataError
from verisal.models import Bounds, Classifier

tifffile = pytest.importorskip("tifffile")
GENERATOR = np.random.default_rng(3)
GREY = GENERATOR.integers(0, 256, (6, 5), dtype=np.uint8)
RGB = GENERATOR.integers(0, 256, (6, 5, 3), dtype=np.uint8)
RGBA = GENERATOR.integers(0, 256, (6, 5, 4), dtype=np.uint8)
DEEP = GENERATOR.integers(0, 65536, (6, 5), dtype=np.uint16)
BANDS = GENERATOR.integers(0, 10_000, (13, 16, 15), dtype=np.uint16)


def saved(tmp_path, name, content, **settings):
    path = tmp_path / name
    if name.endswith(".npy"):
        np.save(path, content)
    elif name.endswith(".npz"):
        np.savez(path, **content)
    elif isinstance(content, np.ndarray) and ((content.ndim == 3 and content.shape[2] > 4) or settings):
        tifffile.imwrite(path, content, **settings)
    else:
        Image.fromarray(content).save(path)
    return path


@pytest.mark.parametrize(("name", "content"), [("a.png", GREY), ("a.tif", GREY), ("a.bmp", GREY)])
def test_grey_stays_one_channel(tmp_path, name, content):
    found = ImageReader(channels=1)(saved(tmp_path, name, content))
    torch.testing.assert_close(found, torch.from_numpy(content)[None] / 255)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_keep_their_depth(tmp_path, name):
    found = ImageReader(channels=1)(saved(tmp_path, name, DEEP))
    torch.testing.assert_close(found, torch.from_numpy(DEEP.astype(np.float32) / 65535)[None])
    assert len(found.unique()) == len(np.unique(DEEP))


def test_colours_for_three_channels_are_decoded_as_ever(tmp_path):
    for name, content in (("a.png", RGB), ("b.png", GREY), ("c.png", RGBA), ("d.jpg", RGB), ("e.png", DEEP)):
        path = saved(tmp_path, name, content)
        assert ImageReader()(path).equal(decode_image(path))


def test_four_channels_are_read_as_bands(tmp_path):
    found = ImageReader(channels=4)(saved(tmp_path, "a.png", RGBA))
    torch.testing.assert_close(found, torch.from_numpy(RGBA).permute(2, 0, 1) / 255)


KINDS = {
    "pages": ("a.tif", BANDS, {"photometric": "minisblack"}),
    "planes": ("a.tif", BANDS, {"photometric": "minisblack", "planarconfig": "separate"}),
    "pixels": ("a.tif", BANDS.transpose(1, 2, 0), {"photometric": "minisblack"}),
    "compressed": ("a.tif", BANDS, {"photometric": "minisblack", "compression": "zlib"}),
    "array": ("a.npy", BANDS, {}),
    "array, channels last": ("a.npy", BANDS.transpose(1, 2, 0), {}),
    "archive": ("a.npz", {"image": BANDS}, {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_many_bands_are_values_in_the_bounds(tmp_path, kind):
    name, content, settings = KINDS[kind]
    path = saved(tmp_path, name, content, **settings)
    found = ImageReader(channels=13, bounds=Bounds(0, 10_000))(path)
    torch.testing.assert_close(found, torch.from_numpy(BANDS.astype(np.float32)) / 10_000)
    without = ImageReader(channels=13)(path)
    torch.testing.assert_close(without, torch.from_numpy(BANDS.astype(np.float32)) / 65535)


def test_one_band_of_values_in_bounds(tmp_path):
    values = GENERATOR.uniform(-1024, 1024, (6, 5)).astype(np.float32)
    reader = ImageReader(channels=1, bounds=Bounds(-1024, 1024))
    expected = torch.from_numpy((values + 1024) / 2048)[None]
    torch.testing.assert_close(reader(saved(tmp_path, "a.npy", values)), expected)
    torch.testing.assert_close(reader(saved(tmp_path, "a.tif", values, photometric="minisblack")), expected)
    torch.testing.assert_close(reader(saved(tmp_path, "a.png", GREY)), torch.from_numpy(GREY)[None] / 255)


@pytest.mark.parametrize("channels", [3, 13])
def test_a_grey_file_is_replicated_if_one_says_so(tmp_path, channels):
    path = saved(tmp_path, "a.png", GREY)
    found = ImageReader(channels=channels, rule="replicate")(path)
    assert found.shape == (channels, 6, 5)
    assert (found == torch.from_numpy(GREY) / 255).all()


def test_the_mean_of_colours_if_one_says_so(tmp_path):
    found = ImageReader(channels=1, rule="mean")(saved(tmp_path, "a.png", RGB))
    torch.testing.assert_close(
        found, torch.from_numpy(RGB).permute(2, 0, 1).mean(0, keepdim=True, dtype=torch.float32) / 255
    )


ONE = {"channels": 1}
REFUSED = {
    "colour for one": ("a.png", RGB, ONE, r"has 3 channel\(s\), .* takes 1; .* channel_rule: mean"),
    "grey for two": ("a.png", GREY, {"channels": 2}, r"has 1 channel\(s\), .* takes 2; .* replicate"),
    "colour for many": ("a.png", RGB, {"channels": 13}, r"takes 13; give files with as many$"),
    "grey, and a rule": ("a.png", GREY, {"rule": "refuse"}, r"has 1 channel\(s\), .* takes 3"),
    "mean of bands": ("a.npy", BANDS, {"rule": "mean"}, r"has 13 .* takes 3; give files with as many$"),
    "floats without bounds": ("a.npy", 9.0 * GREY, ONE, r"a.npy: values from .*\[0, 1\] was expected"),
    "numbers without end": ("a.npy", GREY.astype(np.int32), ONE, "whose greatest value nobody has said"),
    "outside": ("a.npy", DEEP, ONE | {"bounds": Bounds(0, 99)}, "a.npy: images must lie in the bounds"),
    "no image": ("a.npy", np.zeros((2, 3, 4, 5)), {}, r"holds \(2, 3, 4, 5\) of float64, and an image"),
    "several arrays": ("a.npz", {"a": GREY, "b": GREY}, {}, r"holds 2 arrays \(a, b\), and one was"),
    "objects": ("a.npy", np.array([{}], dtype=object), {}, "no array of numbers can be read"),
    "too large": ("a.npy", GREY, ONE | {"max_pixels": 29}, "30 pixels, but at most 29 are read"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_taken_is_said_in_a_sentence(tmp_path, kind):
    name, content, settings, message = REFUSED[kind]
    with pytest.raises(DataError, match=message):
        ImageReader(**settings)(saved(tmp_path, name, content))


def test_damaged_files_are_named(tmp_path):
    for name in ("a.npy", "a.npz", "a.tif"):
        path = tmp_path / name
        path.write_bytes(b"II*\0" + bytes(40))
        with pytest.raises(DataError, match=f"{name}: "):
            ImageReader(channels=13)(path)
    with pytest.raises(DataError, match="cannot be read"):
        ImageReader(channels=1)(tmp_path / "none.npy")


def test_a_reader_is_the_classifiers():
    network = nn.Sequential(nn.Conv2d(2, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert ImageReader.of(Classifier(network, bounds=(0, 9))) == ImageReader(channels=2, bounds=Bounds(0, 9))
    with pytest.raises(ConfigError, match=r"channel_rule must be 'replicate', .* found 'grey'"):
        ImageReader(rule="grey")
