"""What annotation files of other tools hold: doubled keys, values of any type, odd boxes, any encoding."""

import json
from pathlib import Path

import pytest

from helpers.make_data_sets import (
    HEIGHT,
    WIDTH,
    classifier_of,
    make_coco,
    make_cub,
    make_folder,
    make_imagenet,
    make_pets,
    make_voc,
    write_image,
    write_numbers,
    write_xml,
)
from verisal.data import (
    COCO,
    CUB200,
    AnnotatedImages,
    ImageFolder,
    ImageNetValidation,
    ImageSplits,
    OxfordPet,
    PascalVOC,
    check_data,
)
from verisal.errors import DataError

HEAD = "image,class,xmin,ymin,xmax,ymax"


def with_csv(tmp_path, text, **settings):
    root = make_folder(tmp_path / "images")
    path = tmp_path / "boxes.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return ImageFolder(root=root, annotations=str(path), format="csv", **settings)


def with_xml(tmp_path, content, name="cat0.xml"):
    root = make_folder(tmp_path / "images")
    path = tmp_path / "xml" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return ImageFolder(root=root, annotations=str(path.parent), format="voc")


def coco_with(tmp_path, change):
    """The small COCO set after ``change`` of its content."""
    images, annotations = make_coco(tmp_path)
    content = json.loads(Path(annotations).read_text())
    change(content)
    Path(annotations).write_text(json.dumps(content))
    return COCO(images=images, annotations=annotations)


def told(images):
    """Place below its folder, and words, of every problem."""
    return [(Path(problem.place).name, problem.words) for problem in images.listing().problems]


def boxes(images):
    return {record.image_id: [found.box for found in record.objects] for record in images.listing().records}


# Doubled keys


def test_two_images_of_coco_with_one_id_mean_neither(tmp_path):
    images = coco_with(tmp_path, lambda content: content["images"][2].update(id=25))
    assert told(images) == [
        ("instances_val2017.json image 1", "has the id 25, as image 2 has; give each its own"),
        ("instances_val2017.json image 2", "has the id 25, as image 1 has; give each its own"),
    ]
    # What belongs to neither for sure is no object of either.
    assert [name for name, found in boxes(images).items() if found] == ["000000000009.jpg"]


def test_two_categories_of_coco_with_one_id_mean_neither(tmp_path):
    images = coco_with(tmp_path, lambda content: content["categories"].append({"id": 18, "name": "wolf"}))
    words = [words for _, words in told(images)]
    assert words == [
        "has the id 18, as category 2 has; give each its own",
        "has the id 18, as category 0 has; give each its own",
        "category 18 is the id of two categories",
    ]
    assert {found.class_name for record in images.listing().records for found in record.objects} == {"person"}


def test_other_keys_of_coco_that_stand_twice(tmp_path):
    def change(content):
        content["annotations"][2]["id"] = 1
        content["images"].append(content["images"][0] | {"id": 5})
        content["categories"].append({"id": 3, "name": "person"})
        content["annotations"][1]["category_id"] = 3

    assert told(coco_with(tmp_path, change)) == [
        ("instances_val2017.json image 3", "is the file 000000000009.jpg, as image 0 is"),
        ("instances_val2017.json annotation 0", "has the id 1, as annotation 2 has; give each its own"),
        ("instances_val2017.json annotation 2", "has the id 1, as annotation 0 has; give each its own"),
        ("instances_val2017.json category 2", "has the name 'person', as category 1 has; give each its own"),
    ]


def test_an_unused_category_of_the_same_name_does_no_harm(tmp_path):
    # Some exports put a group of that name before the class.
    images = coco_with(tmp_path, lambda content: content["categories"].insert(0, {"id": 0, "name": "dog"}))
    assert told(images) == []


def test_ids_that_only_look_alike_are_not_mixed(tmp_path):
    images = coco_with(tmp_path, lambda content: content["images"][0].update(id="9"))
    (_, words), _ = told(images)
    assert words == (
        "image 9 or category 18 is not in the file: no image has the id 9, but one has the text '9';"
        " write ids alike"
    )
    both = coco_with(tmp_path / "2", lambda content: content["images"][1].update(id="9"))
    assert told(both)[0][1] == "has the id 9, as image 1 has; give each its own"
    # True is no 1.
    true = coco_with(tmp_path / "3", lambda content: content["annotations"][1].update(category_id=True))
    assert told(true) == [
        ("instances_val2017.json annotation 1", "category_id is true, expected a whole number or a text")
    ]


@pytest.mark.parametrize(
    ("old", "new", "place", "words"),
    [
        ('"images": [', '"images": [], "images": [', ".json", "has the key 'images' twice; keep one"),
        ('{"id": 9,', '{"id": 9, "id": 8,', ".json image 0", "has the key 'id' twice; keep one"),
        (
            '"iscrowd": 0,',
            '"bbox": [1, 1, 9, 9],',
            ".json annotation 0",
            "has the key 'bbox' twice; keep one",
        ),
        (
            '{"size": [',
            '{"size": [1, 1], "size": [',
            ".json annotation 1",
            "has the key 'size' twice; keep one",
        ),
    ],
)
def test_a_key_that_stands_twice_in_an_object_of_json(tmp_path, old, new, place, words):
    images, annotations = make_coco(tmp_path)
    Path(annotations).write_text(Path(annotations).read_text().replace(old, new, 1))
    (where, what), *_ = told(COCO(images=images, annotations=annotations))
    assert where.endswith(place)
    assert what.removeprefix("cannot be read: ") == words


def test_columns_and_rows_of_csv_that_stand_twice(tmp_path):
    assert told(with_csv(tmp_path, f"{HEAD}, XMIN\ncat0,cat,1,1,5,5,2\n")) == [
        ("boxes.csv", "has the column xmin twice (columns 3, 7); remove or rename one")
    ]
    rows = f"{HEAD}\ncat0,cat,1,1,5,5\ncat0,dog,1,1,5,5\ncat/cat0.png,cat,1,1,5,5\ncat1,cat\ncat1,cat\n"
    assert told(with_csv(tmp_path / "2", rows)) == [
        ("boxes.csv row 4", "says the same as row 2; remove one"),
        ("boxes.csv row 6", "says the same as row 5; remove one"),
    ]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("<filename>", "<filename>b.jpg</filename><filename>", "has <filename> twice; keep one"),
        ("<size>", "<size><width>1</width></size><size>", "has <size> twice; keep one"),
        ("<name>", "<name>dog</name><name>", "object 1 has <name> twice; keep one"),
        ("<bndbox>", "<bndbox/><bndbox>", "object 1 has <bndbox> twice; keep one"),
        ("<xmin>", "<xmin>2</xmin><xmin>", "object 1 has <xmin> twice; keep one"),
    ],
)
def test_elements_of_xml_that_stand_twice(tmp_path, old, new, words):
    path = write_xml(tmp_path / "a.xml", [("cat", (3, 3, 9, 9))])
    images = with_xml(tmp_path, path.read_text().replace(old, new, 1))
    assert told(images) == [("cat0.xml", words)]


def test_two_files_about_one_image(tmp_path):
    images = with_xml(tmp_path, write_xml(tmp_path / "a.xml", [("cat", (3, 3, 9, 9))]).read_bytes())
    write_xml(tmp_path / "xml" / "cat" / "cat0.XML", [("dog", (3, 3, 9, 9))])
    ((place, words),) = told(images)
    assert (place, words[:29]) == ("cat0.xml", "is about cat/cat0.png, as /tmp"[:29])
    assert boxes(images)["cat/cat0.png"] == [(2, 2, 9, 9)]
    for name in ("cat0.png", "cat0.bmp"):
        write_numbers(tmp_path / "masks" / name, {1: (1, 1, 9, 9)})
    masked = ImageFolder(root=images.root, annotations=str(tmp_path / "masks"), format="masks")
    ((place, words),) = told(masked)
    assert (place, words[:36]) == ("cat0.png", "is the mask of cat/cat0.png, as /tmp"[:36])


def test_lists_of_known_data_sets_that_name_an_image_or_a_class_twice(tmp_path):
    images, _ = make_imagenet(tmp_path, folders=False)
    name = "ILSVRC2012_val_00000001"
    (tmp_path / "labels").write_text(f"{name} 65\nILSVRC2012_val_00000293 0\n{name}.JPEG 3\n")
    labelled = ImageNetValidation(images=images, labels=str(tmp_path / "labels"))
    assert told(labelled) == [("labels row 3", f"names image '{name}.JPEG' again, after row 1; keep one")]
    voc = PascalVOC(root=make_voc(tmp_path / "voc"))
    listed = tmp_path / "voc" / "VOCdevkit" / "VOC2012" / "ImageSets" / "Main" / "val.txt"
    listed.write_text("2007_000027\n2007_00\x0032\n")
    ((_, words),) = told(voc)
    assert words == "cannot be read (embedded null byte); expected an XML file of Pascal VOC"
    listed.write_text("2007_000027\n2007_000032\n2007_000027\n")
    assert told(voc) == [("the list of part val", "names 2007_000027.jpg twice; keep one")]
    pets = OxfordPet(root=make_pets(tmp_path / "pets"))
    listed = tmp_path / "pets" / "oxford-iiit-pet" / "annotations" / "test.txt"
    listed.write_text(listed.read_text() + "Abyssinian_201 1 1 1\n")
    assert told(pets) == [("test.txt", "names Abyssinian_201.jpg twice; keep one")]
    listed.write_text("Abyssinian_201 1 1 1\n\nAbyssinian_202 one\n")
    assert told(pets) == [
        ("test.txt line 3", "expected name, class, species and breed, found 'Abyssinian_202 one'")
    ]
    birds = Path(make_cub(tmp_path / "cub"))
    first = (birds / "images.txt").read_text().splitlines()[0].split()[1]
    for table, value in (("images", first), ("image_class_labels", "1"), ("train_test_split", "0")):
        path = birds / f"{table}.txt"
        path.write_text(f"{path.read_text()}\n4 {value}\n")
    (birds / "bounding_boxes.txt").write_text("\n".join(f"{key} 8 6 12 18" for key in range(1, 5)))
    assert told(CUB200(root=str(birds))) == [("images.txt", f"names {first} twice; keep one")]
    (birds / "classes.txt").write_text("1 001.Crow\n2 002.Crow\n")
    with pytest.raises(DataError, match=r"classes.txt: names the class 'Crow' twice"):
        CUB200(root=str(birds)).listing()


# Values of the wrong type


@pytest.mark.parametrize(
    ("kind", "key", "value", "words"),
    [
        ("images", "width", None, "width is null, expected a number"),
        ("images", "height", "30", "height is the text '30', expected a number"),
        ("images", "height", 0, "height is 0, expected a whole number of at least 1"),
        ("images", "width", 1e400, "width is inf, which is not finite; expected pixels"),
        ("images", "id", [9], "id is a list of 1, expected a whole number or a text"),
        ("images", "file_name", 1.5, "file_name is 1.5, expected a name"),
        ("annotations", "image_id", None, "image_id is null, expected a whole number or a text"),
        ("annotations", "iscrowd", "no", "iscrowd is the text 'no', expected 0 or 1"),
        ("annotations", "bbox", {}, "cannot be read: bbox is an object, expected a list of left, top, width"),
        ("annotations", "bbox", [1, 2, 3], "cannot be read: bbox has 3 values, expected left, top, width"),
        (
            "annotations",
            "bbox",
            [1, "2", 3, 4],
            "cannot be read: bbox value 1 is the text '2', expected a num",
        ),
        (
            "annotations",
            "bbox",
            [1, 2, float("nan"), 4],
            "cannot be read: bbox value 2 is nan, which is not fi",
        ),
        (
            "annotations",
            "bbox",
            [1, 2, 10**20, 4],
            "cannot be read: bbox value 2 is 100000000000000000000, wh",
        ),
        (
            "annotations",
            "segmentation",
            3,
            "cannot be read: segmentation is 3, expected polygons or run leng",
        ),
        (
            "annotations",
            "segmentation",
            [[1, 2, 3, 4, 5, True]],
            "cannot be read: polygon value 5 is true, ex",
        ),
        ("annotations", "segmentation", {"size": [30, 40]}, "cannot be read: lacks counts"),
        (
            "annotations",
            "segmentation",
            {"size": [30], "counts": [1]},
            "cannot be read: size of segmentation ",
        ),
        (
            "annotations",
            "segmentation",
            {"size": [30, 40], "counts": "o" * 99},
            "cannot be read: run lengths ",
        ),
        ("categories", "name", [], "name is a list of 0, expected a name"),
    ],
)
def test_values_of_the_wrong_type_in_coco(tmp_path, kind, key, value, words):
    images = coco_with(tmp_path, lambda content: content[kind][0].update({key: value}))
    place, found = told(images)[0]
    assert place == f"instances_val2017.json {kind.removesuffix('s').replace('ie', 'y')} 0"
    assert found.startswith(words)


@pytest.mark.parametrize("entry", [None, [], "x", 3])
@pytest.mark.parametrize("kind", ["images", "annotations", "categories"])
def test_entries_of_coco_that_are_no_objects(tmp_path, kind, entry):
    images = coco_with(tmp_path, lambda content: content[kind].append(entry))
    ((place, words),) = told(images)
    assert place.endswith(("image 3", "annotation 4", "category 2"))
    assert words.endswith("expected an object")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "its lists are nested too deeply"),
        ("[1, 2]", "expected an object with images, annotations, categories, found a list of 2"),
        ('{"images": [], "annotations": null}', "found annotations as null"),
        ('{"images": []}', "annotations is not there"),
        ("{", "is no whole JSON"),
    ],
)
def test_files_that_are_no_coco_at_all(tmp_path, text, words):
    images, annotations = make_coco(tmp_path)
    Path(annotations).write_text(text)
    (problem,) = COCO(images=images, annotations=annotations).listing().problems
    assert words in problem.words
    assert not problem.entry


def test_unreadable_annotations_of_coco_can_be_skipped(tmp_path, caplog):
    count, names = 200, ("cat", "dog")
    for index in range(count):
        write_image(tmp_path / "images" / f"{index:03d}.png", (index, 0, 0), (8, 6))
    content = {
        "images": [
            {"id": index, "file_name": f"{index:03d}.png", "width": 8, "height": 6} for index in range(count)
        ],
        "annotations": [
            {"id": index, "image_id": index, "category_id": index % 2, "bbox": [1, 1, 4, 3]}
            for index in range(count)
        ],
        "categories": [{"id": index, "name": name} for index, name in enumerate(names)],
    }
    content["annotations"][7]["bbox"] = None
    # Of this one nobody knows the image.
    content["annotations"].append({"id": count, "image_id": None, "category_id": 0, "bbox": [1, 1, 4, 3]})
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    images = COCO(images=str(tmp_path / "images"), annotations=str(path))

    def part(on_error):
        splits = ImageSplits(images=images, ratios=(1, 0, 0), on_error=on_error)
        return AnnotatedImages(splits, "fit", classifier=classifier_of(names, 6))

    with pytest.raises(
        DataError, match=r"a.json annotation 7: cannot be read: bbox is null, expected a list"
    ):
        part("raise")
    data = part("skip")
    assert (
        caplog.records[-1].getMessage().endswith("expected a list of left, top, width and height and 1 more")
    )
    assert len(data) == count - 1
    assert "007.png" not in [data.image_id(index) for index in range(len(data))]
    places = [problem.place for problem in data.skipped]
    assert places == [f"{path} annotation {number}" for number in (7, count)]
    content["annotations"] += [{"id": f"x{index}", "image_id": None} for index in range(2)]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"4 entries about 200 images cannot be used, more than 1 %"):
        part("skip")


# Boxes that cannot be meant


def test_shares_of_the_image_are_no_pixels(tmp_path):
    rows = f"{HEAD}\ncat0,cat,0.1,0.2,0.5,0.6\ncat1,cat,0,0,1,0.75\n"
    ((place, words),) = told(with_csv(tmp_path, rows))
    assert place == "boxes.csv"
    assert words.startswith("the coordinates of all 2 boxes lie between 0 and 1; these seem to be shares")
    # Beside boxes in pixels they are single mistakes.
    found = told(with_csv(tmp_path / "2", f"{rows}dog0,dog,1,1,9,9\n"))
    assert [place for place, _ in found] == ["boxes.csv row 2", "boxes.csv row 3"]
    assert found[0][1].startswith("the coordinates (0.1, 0.2, 0.5, 0.6) lie between 0 and 1; these seem")
    change = [
        entry | {"bbox": [0.25, 0.5, 0.5, 0.25]}
        for entry in json.loads(Path(make_coco(tmp_path / "3")[1]).read_text())["annotations"]
    ]
    ((place, words),) = told(coco_with(tmp_path / "4", lambda content: content.update(annotations=change)))
    assert (place, words[:27]) == ("instances_val2017.json", "the coordinates of all 3 bo")
    # One pixel is taken off in this format, which must not make them large enough.
    xml = write_xml(tmp_path / "a.xml", [("cat", (0.1, 0.1, 0.9, 0.9)), ("cat", (0.5, 0.1, 1.0, 0.9))])
    ((place, words),) = told(with_xml(tmp_path / "5", xml.read_bytes()))
    assert (place, words[:27]) == ("xml", "the coordinates of all 2 bo")


def test_boxes_of_one_pixel_or_less(tmp_path):
    xml = write_xml(
        tmp_path / "a.xml", [("cat", (7, 4, 7, 4)), ("cat", (7, 4, 8, 5)), ("cat", (7, 4, 7, 25))]
    )
    images = with_xml(tmp_path, xml.read_bytes())
    words = "is not more than one pixel wide or high; mark the whole object, or remove it"
    assert told(images) == [
        ("cat0.xml object 1", f"box (6, 3, 7, 4) {words}"),
        ("cat0.xml object 3", f"box (6, 3, 7, 25) {words}"),
    ]
    assert boxes(images)["cat/cat0.png"] == [(6, 3, 8, 5)]
    assert told(with_csv(tmp_path / "2", f"{HEAD}\ncat0,cat,3,3,4,9\ncat0,cat,3,3,5,9\n")) == [
        ("boxes.csv row 2", f"box (3, 3, 4, 9) {words}")
    ]


def test_a_box_larger_than_its_image(tmp_path):
    rows = f"{HEAD}\ncat0,cat,0,0,400,300\ncat1,cat,-1,-1,{WIDTH + 1},{HEIGHT + 1}\n"
    images = with_csv(tmp_path, rows)
    data = AnnotatedImages(
        ImageSplits(images=images, ratios=(1, 0, 0)), "fit", classifier=classifier_of(("cat", "dog"), HEIGHT)
    )
    index = [data.image_id(row) for row in range(len(data))].index("cat/cat0.png")
    with pytest.raises(DataError, match=r"row 2: box \(0, 0, 400, 300\) is larger than its image of 40 x 30"):
        data[index]
    others = {sample.image_id: sample for row in range(len(data)) if row != index for sample in [data[row]]}
    assert others["cat/cat1.png"].boxes.tolist() == [[0, 0, HEIGHT, HEIGHT]]


# Encodings and dividers

XML = (
    '<?xml version="1.0" encoding="{}"?>\n<annotation><object><name>{}</name>'
    "<bndbox><xmin>3</xmin><ymin>4</ymin><xmax>20</xmax><ymax>16</ymax></bndbox></object></annotation>"
)


@pytest.mark.parametrize(
    ("declared", "codec", "name"),
    [
        ("ISO-8859-1", "latin-1", "bête"),
        ("windows-1251", "cp1251", "жук"),
        ("GBK", "gbk", "犬"),
        ("utf-8", "utf-8-sig", "犬"),
        ("UTF-16", "utf-16", "犬"),
        ("utf-16", "utf-16-le", "犬"),
        # As some tools write what they called UTF-16 in memory.
        ("utf-16", "utf-8", "犬"),
    ],
)
def test_xml_is_read_as_it_declares(tmp_path, declared, codec, name):
    images = with_xml(tmp_path, XML.format(declared, name).encode(codec))
    assert told(images) == []
    (record,) = [record for record in images.listing().records if record.objects]
    assert (record.image_id, record.objects[0].class_name) == ("cat/cat0.png", name)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (XML.format("utf-8", "bête").encode("latin-1", "replace"), "is not UTF-8 text"),
        (
            XML.format("klingon", "cat").encode(),
            "unknown encoding: klingon; expected an XML file of Pascal VOC",
        ),
        (XML.format("rot13", "cat").encode(), "'rot13' is not a text encoding"),
        (
            b"\xff\xfe" + '<!DOCTYPE a [<!ENTITY b "c">]><annotation/>'.encode("utf-16-le"),
            "declares a document",
        ),
    ],
)
def test_xml_in_no_encoding_that_can_be_read(tmp_path, content, words):
    ((place, found),) = told(with_xml(tmp_path, content))
    assert place == "cat0.xml"
    assert found.startswith(words)


@pytest.mark.parametrize(
    "content",
    [
        f"{HEAD}\r\ncat0,cat,10,5,20.5,15\r\n".encode("utf-8-sig"),
        f"{HEAD}\rcat0,cat,10,5,20.5,15\r".encode(),
        f"{HEAD}\ncat0,cat,10,5,20.5,15\n".encode("utf-16"),
        f"sep=;\r\n{HEAD}\r\ncat0,cat,10,5,20,5,15\r\n".replace(",", ";").replace("20;5", "20,5").encode(),
        f"{HEAD}\ncat0,cat,10,5,20.5,15\n\n,,,,,\n".replace(",", "\t").encode(),
        f'note,{HEAD}\n"two\nlines, one text",cat0,cat,10,5,20.5,15\n'.encode(),
    ],
    ids=["mark", "old Macintosh", "UTF-16", "semicolons", "tabs", "quotes"],
)
def test_csv_as_spreadsheets_write_it(tmp_path, content):
    images = with_csv(tmp_path, content)
    assert told(images) == []
    assert boxes(images)["cat/cat0.png"] == [(10, 5, 20.5, 15)]


def test_rows_of_csv_that_lost_their_columns(tmp_path):
    rows = f'{HEAD}\ncat0,cat,1,1,5,5,9\ncat1,"a"b,1,1,5,5\ncat2,cat,1,1,5,5\n'
    images = with_csv(tmp_path, rows)
    assert [place for place, _ in told(images)] == ["boxes.csv row 2", "boxes.csv row 3"]
    assert told(images)[0][1] == "has 7 values, the first row 6; put a text in quotes"
    assert boxes(images)["cat/cat2.png"] == [(1, 1, 5, 5)]
    # From an open quote on nothing is known, so nothing can be skipped.
    (problem,) = with_csv(tmp_path / "2", f'{HEAD}\n"cat0,cat,1,1,5,5\ncat1,cat,1,1,5,5\n').listing().problems
    assert not problem.entry
    assert "is no CSV (unexpected end of data)" in problem.words


# Files about other images


def test_rows_of_images_that_are_not_there_never_go_to_one_of_the_same_name(tmp_path):
    rows = "\n".join((HEAD, "a/cat0.png,cat,1,1,9,9", "b/cat0.png,dog,2,2,9,9", "cat0.png,cat,3,3,9,9"))
    images = with_csv(tmp_path, rows)
    ((place, words),) = told(images)
    assert place == "boxes.csv row 3"
    assert "names cat/cat0.png in the folder 'b', row 2 in 'a'" in words
    assert boxes(images)["cat/cat0.png"] == [(1, 1, 9, 9), (3, 3, 9, 9)]


def test_annotations_that_say_nothing_of_any_image_are_a_problem(tmp_path):
    nothing = "marks no object and names no class in any of the images"
    ((_, words),) = told(with_csv(tmp_path / "csv", HEAD))
    assert nothing in words
    ((_, words),) = told(with_xml(tmp_path / "voc", "<annotation/>"))
    assert nothing in words
    images = coco_with(tmp_path / "coco", lambda content: content.update(annotations=[]))
    ((_, words),) = told(images)
    assert nothing in words
    assert len(check_data(images).problems) == 1
    make_voc(tmp_path / "devkit")
    listed = tmp_path / "devkit" / "VOCdevkit" / "VOC2012" / "ImageSets" / "Main" / "val.txt"
    usual = listed.read_text()
    listed.write_text("\n")
    assert nothing in told(PascalVOC(root=str(tmp_path / "devkit")))[0][1]
    listed.write_text(usual + "\n\n")
    images = PascalVOC(root=str(tmp_path / "devkit"))
    assert not told(images)
    assert len(images.listing().records) == 2


def test_an_empty_polygon_is_no_mask(tmp_path):
    def change(content):
        content["annotations"][0]["segmentation"] = [[]]

    images = coco_with(tmp_path, change)
    assert not told(images)
    assert images.listing().records[0].objects[0].mask is None


def test_boxes_that_are_corners_are_not_read_as_width_and_height(tmp_path):
    def boxes_of(*values):
        def change(content):
            entry = content["annotations"][0]
            content["annotations"] = [
                {**entry, "id": n, "bbox": box, "segmentation": []} for n, box in values
            ]

        return change

    corners = coco_with(tmp_path / "a", boxes_of((1, [2, 3, 20, 20]), (2, [30, 5, 39, 28])))
    ((place, words),) = told(corners)
    assert place == Path(corners.annotations).name
    assert "boxes seem to be left, top, right and bottom, as that of annotation 1 reaches outside" in words
    # One that cannot be corners says that the others are none, and what reaches outside is cut off.
    assert not told(coco_with(tmp_path / "b", boxes_of((1, [30, 5, 39, 28]), (2, [20, 3, 9, 9]))))
    assert not told(coco_with(tmp_path / "c", boxes_of((1, [2, 3, 20, 20]), (2, [3, 5, 39, 27]))))
