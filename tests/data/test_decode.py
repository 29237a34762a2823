import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from verisal.data.decode import decode_image, decode_index_mask, resize_image
from verisal.errors import DataError

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def corners() -> Image.Image:
    """3 wide, 2 high: red green blue over white red green."""
    image = Image.new("RGB", (3, 2))
    image.putdata([RED, GREEN, BLUE, WHITE, RED, GREEN])
    return image


def unit(*pixels: tuple[int, int, int]) -> torch.Tensor:
    return torch.tensor(pixels, dtype=torch.float32).T / 255


def test_rgb_png_is_read_exactly(tmp_path):
    corners().save(tmp_path / "a.png")
    image = decode_image(tmp_path / "a.png")
    assert image.dtype == torch.float32
    assert image.shape == (3, 2, 3)
    assert torch.equal(image[:, 0], unit(RED, GREEN, BLUE))
    assert torch.equal(image[:, 1], unit(WHITE, RED, GREEN))


def test_every_8_bit_value_is_a_255th(tmp_path):
    Image.fromarray(np.arange(256, dtype=np.uint8)[None]).save(tmp_path / "grey.png")
    image = decode_image(tmp_path / "grey.png")
    expected = torch.arange(256, dtype=torch.float32) / 255
    assert torch.equal(image, expected.expand(3, 1, 256))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    # What a camera in that position stores, written by hand for each of the eight.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: upright.T[::-1, ::-1],
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    image = decode_image(tmp_path / "a.png")
    assert torch.equal(image[0], torch.from_numpy(upright).float() / 255)


def test_transparency_is_laid_over_white(tmp_path):
    image = Image.new("RGBA", (3, 1))
    image.putdata([(255, 0, 0, 255), (255, 0, 0, 0), (0, 0, 0, 51)])
    image.save(tmp_path / "a.png")
    assert torch.allclose(
        decode_image(tmp_path / "a.png")[:, 0], unit(RED, WHITE, (204, 204, 204)), atol=1e-6
    )


def test_grey_with_alpha(tmp_path):
    image = Image.new("LA", (2, 1))
    image.putdata([(0, 255), (0, 0)])
    image.save(tmp_path / "a.png")
    assert torch.equal(decode_image(tmp_path / "a.png")[:, 0], unit((0, 0, 0), WHITE))


def test_palette_and_transparent_palette(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    image.save(tmp_path / "a.png")
    assert torch.equal(decode_image(tmp_path / "a.png")[:, 0], unit(RED, BLUE))
    image.save(tmp_path / "b.png", transparency=1)
    assert torch.equal(decode_image(tmp_path / "b.png")[:, 0], unit(RED, WHITE))


def test_one_bit(tmp_path):
    image = Image.new("1", (2, 1))
    image.putdata([0, 255])
    image.save(tmp_path / "a.png")
    assert torch.equal(decode_image(tmp_path / "a.png")[:, 0], unit((0, 0, 0), WHITE))


def test_cmyk(tmp_path):
    image = Image.new("CMYK", (2, 1))
    image.putdata([(0, 255, 255, 0), (0, 0, 0, 255)])
    image.save(tmp_path / "a.tif")
    assert torch.equal(decode_image(tmp_path / "a.tif")[:, 0], unit(RED, (0, 0, 0)))


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bit_grey_is_scaled_not_wrapped(tmp_path, ending):
    values = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{ending}")
    image = decode_image(tmp_path / f"a.{ending}")
    assert torch.allclose(image[1, 0], torch.tensor([0, 255, 256, 32768, 65535]) / 65535, atol=1e-7)


def test_16_bit_colour_is_scaled_not_wrapped(tmp_path):
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    # Two 16-bit RGB pixels, written by hand because Pillow cannot.
    row = b"\0" + struct.pack(">6H", 0, 257, 65535, 32896, 255, 65535)
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    expected = torch.tensor([[0, 257, 65535], [32896, 255, 65535]]).T / 65535
    assert torch.allclose(decode_image(tmp_path / "a.png")[:, 0], expected, atol=1 / 255)


def test_float_grey_in_range_is_kept_and_out_of_range_is_refused(tmp_path):
    Image.fromarray(np.array([[0.25, 1.0]], dtype=np.float32)).save(tmp_path / "a.tif")
    assert torch.equal(decode_image(tmp_path / "a.tif")[0], torch.tensor([[0.25, 1.0]]))
    for wrong in (1.5, float("nan")):
        Image.fromarray(np.array([[0.25, wrong]], dtype=np.float32)).save(tmp_path / "b.tif")
        with pytest.raises(DataError, match=r"b\.tif: grey values from"):
            decode_image(tmp_path / "b.tif")


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (2, 2), colour) for colour in (RED, BLUE)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert torch.equal(decode_image(tmp_path / "a.gif")[:, 0], unit(RED, RED))


def test_odd_paths(tmp_path):
    path = tmp_path / "мои снимки" / "ein Bild #1 %20 [x]\n.PNG"
    path.parent.mkdir()
    corners().save(path, format="PNG")
    assert decode_image(str(path)).shape == (3, 2, 3)


@pytest.mark.parametrize("ending", ["jpg", "png", "gif", "tif", "bmp", "webp"])
def test_truncated_at_every_tenth(tmp_path, ending):
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    formats = {"jpg": "JPEG", "tif": "TIFF"}
    picture = Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
    picture.save(buffer, formats.get(ending, ending.upper()))
    content = buffer.getvalue()
    for tenth in range(1, 9):
        path = tmp_path / f"cut{tenth}.{ending}"
        path.write_bytes(content[: len(content) * tenth // 10])
        with pytest.raises(DataError, match=f"cut{tenth}"):
            decode_image(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "0 bytes"), (b"hello, this is text", "not an image"), (b"\x89PNG\r\n\x1a\n", "empty.dat: ")],
)
def test_not_an_image(tmp_path, content, message):
    path = tmp_path / "empty.dat"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        decode_image(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.png: cannot be read"):
        decode_image(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match="cannot be read"):
        decode_image(tmp_path)


def test_too_many_pixels_for_us(tmp_path):
    corners().save(tmp_path / "a.png")
    assert decode_image(tmp_path / "a.png", max_pixels=6).shape == (3, 2, 3)
    with pytest.raises(DataError, match=r"a\.png: 3 x 2 pixels, but at most 5"):
        decode_image(tmp_path / "a.png", max_pixels=5)


@pytest.mark.parametrize("side", [10_000, 20_000])
def test_decompression_bomb_is_refused_before_its_pixels_are_made(tmp_path, side):
    # A bitmap header alone: 10 000 pixels a side only warns in Pillow, 20 000 is refused there.
    header = b"BM" + struct.pack("<IHHI", 54, 0, 0, 54)
    info = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
    (tmp_path / "bomb.bmp").write_bytes(header + info)
    with pytest.raises(DataError, match=r"bomb\.bmp: .*shrink"):
        decode_image(tmp_path / "bomb.bmp")


def test_resize_keeps_an_image_of_the_right_size():
    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(resize_image(image, 8), image)


def test_resize_crops_the_middle():
    image = torch.zeros(3, 4, 8)
    image[:, :, 2:6] = 1.0
    assert torch.equal(resize_image(image, 4), torch.ones(3, 4, 4))
    assert torch.equal(resize_image(image.transpose(1, 2), 4), torch.ones(3, 4, 4))


def test_resize_is_antialiased():
    # Columns 0 1 0 1 ...: picking pixels would give a constant 0 or 1, averaging gives one half.
    image = torch.arange(64).remainder(2).float().expand(3, 64, 64)
    small = resize_image(image, 8)
    assert torch.allclose(small[:, 2:-2, 2:-2], torch.full((3, 4, 4), 0.5), atol=0.02)


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (1, 1), (7, 3), (3, 1000)])
def test_resize_of_any_shape(shape):
    small = resize_image(torch.full((3, *shape), 0.25), 5)
    assert torch.allclose(small, torch.full((3, 5, 5), 0.25))


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 0, 4), (3, 4)])
def test_resize_refuses_what_is_no_image(shape):
    with pytest.raises(DataError, match="image must be"):
        resize_image(torch.zeros(shape), 4)


def test_numbers_of_a_mask_are_not_colours(tmp_path):
    numbers = np.array([[0, 1, 7], [255, 2, 0]], dtype=np.uint8)
    grey = Image.fromarray(numbers)
    palette = Image.new("P", (3, 2))
    palette.putdata(numbers.ravel().tolist())
    palette.putpalette([value for index in range(256) for value in (255 - index, 3, index)])
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = Image.fromarray(np.ascontiguousarray(numbers[::-1, ::-1]))
    for name, image, settings in (
        ("grey", grey, {}),
        ("palette", palette, {}),
        ("transparent", palette, {"transparency": 1}),
        ("turned", turned, {"exif": exif}),
    ):
        image.save(tmp_path / f"{name}.png", **settings)
        found = decode_index_mask(tmp_path / f"{name}.png")
        assert found.dtype == np.int64
        assert found.tolist() == numbers.tolist()


def test_numbers_of_1_and_16_bits(tmp_path):
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "one.png")
    assert decode_index_mask(tmp_path / "one.png").tolist() == [[1, 0]]
    Image.fromarray(np.array([[65535, 300]], dtype=np.uint16)).save(tmp_path / "many.png")
    assert decode_index_mask(tmp_path / "many.png").tolist() == [[65535, 300]]


def test_a_picture_in_colour_is_no_mask(tmp_path):
    corners().save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: a mask must have one channel or a palette, found mode RGB"):
        decode_index_mask(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: 3 x 2 pixels, but at most 5"):
        decode_index_mask(tmp_path / "a.png", max_pixels=5)
