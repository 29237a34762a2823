"""DICOM files that pydicom ships, and files that this test makes of them."""

import io
import shutil
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from pydicom.data import get_testdata_file

from verisal.cli import main
from verisal.data import ImageFolder, ImageReader, check_data
from verisal.data.files import find_images
from verisal.errors import ConfigError, DataError
from verisal.models import Bounds, Classifier
from verisal.models.sources.shipped import SmallResNet

GREY = {"channels": 1}
HOUNSFIELD = Bounds(-1024, 4096)


def file_of(name):
    path = get_testdata_file(name, download=False)
    assert path is not None
    return Path(path)


def changed(path, **tags):
    """A file of the CT image with other tags; ``pixels`` are its stored values."""
    found = pydicom.dcmread(file_of("CT_small.dcm"))
    pixels = tags.pop("pixels", None)
    for name, value in tags.items():
        if value is None:
            delattr(found, name)
        else:
            setattr(found, name, value)
    if pixels is not None:
        found.Rows, found.Columns = pixels.shape
        found.PixelData = pixels.astype("<i2" if found.PixelRepresentation else "<u2").tobytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found.save_as(path)
    return path


def test_ct_is_in_hounsfield_units_by_slope_and_intercept():
    path = file_of("CT_small.dcm")
    stored = pydicom.dcmread(path).pixel_array
    image = ImageReader(**GREY, bounds=HOUNSFIELD)(path)
    assert image.dtype == torch.float32
    expected = (torch.from_numpy(stored.astype(np.float64)) * 1 - 1024 + 1024) / 5120
    assert (image[0] - expected).abs().max() < 1e-6


def test_units_without_bounds_and_values_outside_of_them_are_asked_about(tmp_path):
    path = file_of("CT_small.dcm")
    with pytest.raises(DataError, match=r"in units of their own, and nobody has said the bounds"):
        ImageReader(**GREY)(path)
    with pytest.raises(
        DataError, match=r"CT_small.dcm: images must lie in the bounds \[-10, 10\], found .*window"
    ):
        ImageReader(**GREY, bounds=Bounds(-10, 10))(path)


def test_a_window_cuts_what_lies_outside(tmp_path):
    pixels = np.array([[0, 924], [1064, 1300]])
    path = changed(tmp_path / "ct.dcm", pixels=pixels, WindowCenter=[40, 300], WindowWidth=[400, 1500])
    # -1024, -100, 40 and 276 Hounsfield.
    expected = [0.0, 0.15, 0.5, 1.0]
    for window in ((40.0, 400.0), "file"):
        assert ImageReader(**GREY, window=window)(path)[0].flatten().tolist() == pytest.approx(expected)
    without = changed(tmp_path / "none.dcm", pixels=pixels)
    with pytest.raises(DataError, match=r"none.dcm: has no window of its own"):
        ImageReader(**GREY, window="file")(without)
    for window in ((40.0, 0.0), (float("nan"), 1.0), (1.0,), "own"):
        with pytest.raises(ConfigError, match="window must be"):
            ImageReader(**GREY, window=window)


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_an_x_ray_of_twelve_bits_is_shares_of_them_and_inverted_where_the_least_is_white(tmp_path, kind):
    pixels = np.array([[0, 4095], [1000, 3095]])
    path = changed(
        tmp_path / "xray",
        pixels=pixels, PhotometricInterpretation=kind, PixelRepresentation=0, BitsStored=12, HighBit=11,
        RescaleSlope=None, RescaleIntercept=None, Modality="DX",
    )  # fmt: skip
    expected = pixels / 4095
    if kind == "MONOCHROME1":
        expected = 1 - expected
    # Shares of the range, whatever the range is.
    for bounds in (Bounds(0, 1), Bounds(-1024, 1024)):
        image = ImageReader(**GREY, bounds=bounds)(path)
        assert np.abs(image[0].numpy() - expected).max() < 1e-6
    assert ImageReader()(path).shape == (3, 2, 2)


def test_mr_has_no_units_and_is_read_by_its_window():
    path = file_of("MR_small.dcm")
    with pytest.raises(DataError, match=r"of no units, whose black and white nobody has said; say window="):
        ImageReader(**GREY)(path)
    found = pydicom.dcmread(path)
    low = float(found.WindowCenter) - float(found.WindowWidth) / 2
    expected = ((found.pixel_array - low) / float(found.WindowWidth)).clip(0, 1)
    assert np.abs(ImageReader(**GREY, window="file")(path)[0].numpy() - expected).max() < 1e-6


def test_colours_are_read_and_what_is_no_single_image_is_refused():
    assert ImageReader()(file_of("examples_rgb_color.dcm")).shape == (3, 240, 320)
    with pytest.raises(DataError, match="holds 15 frames, and one image was expected"):
        ImageReader(**GREY)(file_of("rtdose.dcm"))
    with pytest.raises(DataError, match="colours of the kind PALETTE COLOR"):
        ImageReader()(file_of("examples_palette.dcm"))
    with pytest.raises(DataError, match="at most 100 are read"):
        ImageReader(max_pixels=100)(file_of("examples_rgb_color.dcm"))


def test_damaged_files_are_named_and_nothing_of_them_is_quoted(tmp_path):
    content = file_of("CT_small.dcm").read_bytes()
    for place, end in enumerate((200, 1000, len(content) - 5000)):
        path = tmp_path / f"{place}.dcm"
        path.write_bytes(content[:end])
        with pytest.raises(DataError) as caught:
            ImageReader(**GREY, bounds=HOUNSFIELD)(path)
        assert str(caught.value).startswith(str(path))
        assert "CompressedSamples" not in str(caught.value)


def test_folders_hold_dicom_files_with_and_without_a_suffix(tmp_path):
    for name in ("IM000001", "b.dcm", "c.DCM", "1.2.840"):
        (tmp_path / name).write_bytes(file_of("CT_small.dcm").read_bytes())
    (tmp_path / "notes").write_text("no image")
    found = find_images(tmp_path)
    assert sorted(path.name for path in found.paths) == ["1.2.840", "IM000001", "b.dcm", "c.DCM"]
    assert found.left_out == {"without suffix": 1}
    classifier = Classifier(SmallResNet(2, channels=1), ["stage1"], normalization="none", image_size=32,
                            channels=1, bounds=(-1024, 4096), class_names=("ill", "well"))  # fmt: skip
    report = check_data(ImageFolder(root=str(tmp_path), labels="none"), classifier=classifier)
    # Three copies are the same picture, and that is the only problem.
    assert [str(problem).partition(": ")[2][:23] for problem in report.problems] == [
        "is the same picture as "
    ] * 3


def test_a_window_is_said_where_files_are_checked(tmp_path):
    shutil.copy(file_of("MR_small.dcm"), tmp_path / "mr.dcm")
    folder = ImageFolder(root=str(tmp_path), labels="none")
    classifier = Classifier(SmallResNet(2, channels=1), ["stage1"], normalization="none", image_size=32,
                            channels=1, class_names=("ill", "well"))  # fmt: skip
    (problem,) = check_data(folder, classifier=classifier).problems
    assert "window=(centre, width)" in str(problem)
    assert check_data(folder, classifier=classifier, window="file").problems == ()


NAME = "Doe^Jane"
PLANTED = {
    "PatientName": NAME, "PatientID": "MRN-48151623", "PatientBirthDate": "19620529",
    "ReferringPhysicianName": "House^Gregory", "InstitutionName": "Saint Elsewhere",
    "AccessionNumber": "ACC-4242",
    "StudyDescription": "chest of Jane",
}  # fmt: skip


def xray_network():
    """A network such as those of torchxrayvision: one channel, [-1024, 1024], sigmoid outputs."""
    return SmallResNet(18, channels=1, widths=(4, 4, 4, 4))


def test_no_tag_reaches_a_figure_a_map_a_line_or_a_file_name(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Path("scans").mkdir()
    generator = np.random.default_rng(0)
    common = {"PhotometricInterpretation": "MONOCHROME1", "PixelRepresentation": 0, "RescaleSlope": None}
    common |= {"RescaleIntercept": None, "BitsStored": 12, "HighBit": 11, "Modality": "DX", **PLANTED}
    changed("scans/IM1", pixels=generator.integers(0, 4096, (40, 40)), **common)
    content = Path("scans/IM1").read_bytes()
    Path("scans/broken.dcm").write_bytes(content[: len(content) - 1500])
    words = [
        "scans", "--classifier=data.test_dicom:xray_network", "--weights=null", "--image_size=32",
        "--channels=1",
        "--bounds=[-1024,1024]", "--mean=[0]", "--std=[1024]", "--classifier_output=sigmoid",
        "--saliency=Occlusion", "--saliency.window=16", "--saliency.stride=16", "--device=cpu",
    ]  # fmt: skip
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    assert main(["explain", *words]) == 1
    out, err = capfd.readouterr()
    assert "IM1: " in out
    assert "broken.dcm" in err
    written = [path for path in Path("explanations").rglob("*") if path.is_file()]
    assert sorted(path.name for path in written) == ["IM1.explained.png", "IM1.npz", "contact_sheet_1.png"]
    text = (out + err + " ".join(map(str, written))).encode()
    for path in written:
        text += path.read_bytes()
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                text += b"".join(io.BytesIO(str(arrays[key]).encode()).read() for key in arrays.files)
    for value in [*PLANTED.values(), *NAME.split("^")]:
        assert value.encode() not in text
        assert value.encode() in content
