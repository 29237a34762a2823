"""Small pictures of every format with all that stands beside pixels, and random damage to them.

``python tests/data/damaged_images.py 50000`` decodes that many damaged files and prints what became of them.
"""

import io
import struct
import sys
import tempfile
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin

from verisal.data.decode import decode_image, decode_index_mask
from verisal.errors import DataError

SIZE = (24, 17)
MAX_PIXELS = 1_000_000


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(pixels: np.ndarray, colour: int, *extra: bytes, bits: int = 16) -> bytes:
    """A PNG file of ``pixels (H, W, C)``, written by hand because Pillow writes no 16-bit colours."""
    height, width = pixels.shape[:2]
    kind = ">u2" if bits == 16 else "u1"
    rows = b"".join(b"\0" + row.astype(kind).tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = [png_chunk(b"IHDR", header), *extra, png_chunk(b"IDAT", zlib.compress(rows))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + png_chunk(b"IEND", b"")


def tiff(
    pixels: np.ndarray,
    photometric: int,
    *,
    order: str = "<",
    extra: tuple[tuple[int, int, int, int], ...] = (),
) -> bytes:
    """A TIFF file of 16-bit ``pixels (H, W, C)``.

    ``extra`` are further tags, each with type, count and value: the number in its 4 bytes.
    """
    height, width, channels = pixels.shape
    data = pixels.astype(f"{order}u2").tobytes()
    bits = struct.pack(f"{order}{channels}H", *[16] * channels).ljust(4, b"\0")
    # Numbers of 2 bytes stand at the start of the 4.
    short = 1 if order == "<" else 1 << 16
    where = 16 if channels == 1 else 8
    tags = [(256, 4, 1, width), (257, 4, 1, height), (259, 3, 1, short), (262, 3, 1, photometric * short)]
    tags += [(258, 3, channels, where * short if channels == 1 else where)]
    tags += [(273, 4, 1, 8 + len(bits)), (277, 3, 1, channels * short), (279, 4, 1, len(data)), *extra]
    block = b"".join(struct.pack(f"{order}HHLL", *tag) for tag in sorted(tags))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}L", 8 + len(bits + data))
    return head + bits + data + struct.pack(f"{order}H", len(tags)) + block + bytes(4)


def exif(orientation: object = 6) -> Image.Exif:
    """EXIF data as cameras write it: names, dates, fractions, and blocks for the exposure and the place."""
    tags = Image.Exif()
    tags[0x010F], tags[0x0110], tags[0x0131] = "Maker", "Model 7", "Software"
    tags[0x0112] = orientation
    tags[0x011A], tags[0x011B] = 72.0, 72.0
    tags[0x0132] = "2020:02:30 25:61:61"
    tags.get_ifd(0x8769).update({0x829A: 0.01, 0x9003: "2020:02:30", 0xA002: 24, 0x927C: b"maker note"})
    tags.get_ifd(0x8825).update({1: "N", 2: (1.0, 2.0, 3.0), 3: "E"})
    return tags


def pictures() -> dict[str, bytes]:
    """Name with suffix to the content of a sound file."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    deep = rng.integers(0, 65536, (SIZE[1], SIZE[0], 4), dtype=np.uint16)
    rgb = Image.fromarray(colours)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Author", "nobody")
    texts.add_text("Comment", "long " * 50, zip=True)
    texts.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="3"/>')
    described = {"exif": exif(), "icc_profile": profile}
    rgba = rgb.convert("RGBA")
    rgba.putalpha(128)
    palette, grey, cmyk = rgb.quantize(16), rgb.convert("L"), rgb.convert("CMYK")
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[0x0112], tags[0x010F], tags[0x8769], tags[0x011A] = (
        6,
        "Maker",
        {0x829A: 0.01, 0x9003: "no date"},
        72.0,
    )
    saved = [
        ("a.jpg", rgb, {**described, "comment": b"a comment"}),
        ("cmyk.jpg", cmyk, {"exif": exif(8)}),
        ("progressive.jpg", grey, {"progressive": True, "exif": exif(3)}),
        ("frames.mpo", rgb, {"exif": exif()}),
        ("a.png", rgb, {**described, "pnginfo": texts}),
        ("alpha.png", rgba, {"pnginfo": texts}),
        ("palette.png", palette, {"transparency": 3, "exif": exif(5)}),
        ("bits.png", rgb.convert("1"), {"transparency": 1}),
        ("frames.png", rgb, {}),
        ("a.webp", rgb, described),
        ("alpha.webp", rgba, {"lossless": True, "exif": exif()}),
        ("frames.webp", rgb, {}),
        ("a.tif", rgb, {"tiffinfo": tags, "icc_profile": profile}),
        ("grey.tif", Image.fromarray(deep[..., 0]), {"tiffinfo": tags}),
        ("palette.tif", palette, {"tiffinfo": tags}),
        ("frames.tif", rgb, {}),
        *(
            (f"{kind}.tif", rgb, {"compression": kind, "description": "words"})
            for kind in ("tiff_lzw", "jpeg")
        ),
        ("fax.tif", rgb.convert("1"), {"compression": "group4"}),
        ("a.gif", palette, {"comment": b"a comment", "transparency": 2}),
        ("frames.gif", rgb, {"loop": 0}),
        ("a.bmp", rgb, {}),
        ("palette.bmp", palette, {}),
        ("bits.bmp", rgb.convert("1"), {}),
    ]
    found = {}
    for name, image, settings in saved:
        file = io.BytesIO()
        formats = {"jpg": "JPEG", "tif": "TIFF"}
        # Copies, because writing one format leaves settings behind that another trips over.
        if "frames" in name:
            settings = {**settings, "save_all": True, "append_images": [rgb.rotate(180)]}
        image.copy().save(file, formats.get(name[-3:], name.rpartition(".")[2].upper()), **settings)
        found[name] = file.getvalue()
    block = png_chunk(b"eXIf", exif().tobytes().removeprefix(b"Exif\0\0"))
    found["grey16.png"] = png(deep[..., :1], 0, png_chunk(b"tRNS", struct.pack(">H", deep[0, 0, 0])), block)
    found["rgb16.png"] = png(deep[..., :3], 2, png_chunk(b"tRNS", struct.pack(">3H", *deep[0, 0, :3])))
    found["la16.png"] = png(deep[..., :2], 4, block)
    found["rgba16.png"] = png(deep, 6, block)
    return found


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Bytes changed, a run of one value, the end cut off, a piece twice or gone; anywhere, or in the head."""
    data = np.frombuffer(content, dtype=np.uint8).copy()
    reach = len(data) if rng.random() < 0.5 else min(len(data), 400)
    first = int(rng.integers(0, reach))
    match rng.integers(0, 6):
        case 0 | 1:
            places = rng.integers(0, reach, rng.integers(1, 8))
            data[places] = rng.integers(0, 256, len(places))
        case 2:
            data[first] ^= 1 << int(rng.integers(0, 8))
        case 3:
            data[first : first + int(rng.integers(1, 9))] = rng.choice([0, 255, 127, 128])
        case 4:
            data = data[:first]
        case 5:
            piece = data[first : first + int(rng.integers(1, 40))]
            tail = data[first + len(piece) :] if rng.random() < 0.5 else data[first:]
            data = (
                np.concatenate([data[:first], piece, tail])
                if rng.random() < 0.5
                else np.concatenate([data[:first], tail])
            )
    return data.tobytes()


def damaged_files(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """``count`` files, of every picture in turn."""
    rng, sound = np.random.default_rng(seed), list(pictures().items())
    for number in range(count):
        name, content = sound[number % len(sound)]
        yield f"{number}-{name}", damaged(content, rng)


def outcome(path: Path) -> str:
    """Decoded or refused; anything else that reading does, as an image or as a mask, raises."""
    if isinstance(numbers := told(decode_index_mask, path), np.ndarray):
        assert numbers.ndim == 2
        assert 0 < numbers.size <= MAX_PIXELS
    if isinstance(image := told(decode_image, path), torch.Tensor):
        assert image.dtype == torch.float32
        assert image.shape[0] == 3
        assert 0 < image[0].numel() <= MAX_PIXELS
        assert 0.0 <= float(image.min()) <= float(image.max()) <= 1.0
        return "decoded"
    assert image.startswith(f"{path}: ")
    return "refused"


def told(read: Callable[..., object], path: Path) -> object:
    """What was read, or the sentence of why not."""
    try:
        return read(path, max_pixels=MAX_PIXELS)
    except DataError as error:
        return str(error)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    counts: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for name, content in damaged_files(int(sys.argv[1]), seed=int(sys.argv[2]) if sys.argv[2:] else 1):
            path = Path(folder) / name
            path.write_bytes(content)
            try:
                found = outcome(path)
            except BaseException:
                found = "ESCAPED"
                print(name, traceback.format_exc())
            path.unlink()
            counts[name.partition("-")[2], found] += 1
    for key, value in sorted(counts.items()):
        print(*key, value)
    print(
        {
            kind: sum(v for k, v in counts.items() if k[1] == kind)
            for kind in ("decoded", "refused", "ESCAPED")
        }
    )
