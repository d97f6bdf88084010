"""Record files against Google's protobuf, known checksums and files made by hand."""

import gzip
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from econ_pyro.data.readers.detect import detect_format, open_images
from econ_pyro.data.readers.tfrecord import crc32c, example, masked_crc, records
from econ_pyro.errors import EconError
from helpers.data_files import blocks, encode, frame, write_records

FEATURE = st.one_of(
    st.binary(max_size=20),
    st.lists(st.integers(0, 255), max_size=9).map(lambda v: np.array(v, np.uint8)),
    st.lists(st.floats(width=32, allow_nan=False), max_size=5).map(lambda v: np.array(v, "f4")),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5).map(lambda v: np.array(v, np.int64)),
)


def test_checksums_are_the_published_ones():
    assert crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32C
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4
    assert crc32c(bytes(range(32))) == 0x46DD794E
    # masking is a turn by 15 bits and a sum, as TensorFlow's unmask undoes it
    crc = crc32c(b"foo")
    turned = (masked_crc(b"foo") - 0xA282EAD8) & 0xFFFFFFFF
    assert (turned >> 17 | turned << 15) & 0xFFFFFFFF == crc


@given(features=st.dictionaries(st.text(max_size=8), FEATURE, max_size=4))
@settings(deadline=None, max_examples=40)
def test_examples_are_what_protobuf_wrote(features):
    got = example(encode(features))
    assert set(got) == set(features)
    for name, value in features.items():
        want = np.frombuffer(value, np.uint8) if isinstance(value, bytes) else value
        assert got[name].tolist() == want.tolist()


@given(data=st.binary(max_size=60))
@settings(deadline=None, max_examples=60)
def test_any_bytes_are_an_example_or_a_value_error(data):
    try:
        example(data)
    except ValueError:
        pass


@pytest.mark.parametrize("packed", ["gzip", "zlib", ""])
def test_records_of_a_file(tmp_path, packed):
    payloads = [b"", b"abc", bytes(200_000), bytes(range(256)) * 700]
    path = write_records(tmp_path / "a.bin", payloads, packed)
    assert list(records(path)) == payloads
    assert detect_format(path) == "tfrecords"  # whatever it is called


def test_gzip_members_follow_one_another(tmp_path):
    path = tmp_path / "a.tfrecords"
    path.write_bytes(gzip.compress(frame(b"one")) + gzip.compress(frame(b"two")))
    assert list(records(path)) == [b"one", b"two"]


@pytest.mark.parametrize("packed", ["gzip", "zlib", ""])
def test_a_file_that_is_cut_off_is_read_up_to_there(tmp_path, packed):
    random = np.random.default_rng(0)
    payloads = [random.bytes(5000) for _ in range(3)]
    whole = write_records(tmp_path / "a.tfrecords", payloads, packed).read_bytes()
    (tmp_path / "a.tfrecords").write_bytes(whole[:-3000])
    got = []
    with pytest.raises(EconError, match="a.tfrecords, damaged at record 2 .*cut off"):
        got += iter(records(tmp_path / "a.tfrecords"))
    got = []
    with pytest.raises(EconError):
        for record in records(tmp_path / "a.tfrecords"):
            got.append(record)
    assert got == payloads[:2]


def test_damage_is_told(tmp_path):
    path = tmp_path / "a.tfrecords"
    raw = frame(b"abc") + frame(b"def")
    path.write_bytes(raw[: len(frame(b"abc"))] + b"\1" + raw[len(frame(b"abc")) + 1 :])
    with pytest.raises(EconError, match="damaged at record 1 .its length is damaged"):
        list(records(path))
    packed = bytearray(gzip.compress(raw))
    packed[-6] ^= 1  # gzip's own checksum
    path.write_bytes(packed)
    with pytest.raises(EconError, match="damaged at record"):
        list(records(path))
    path.write_bytes(zlib.compress(b"neither fish nor fowl"))
    with pytest.raises(EconError, match="damaged at record 0"):
        list(records(path))


# ------------------------------------------------------------------ multi_object_datasets


def one_hot(numbers, entities):
    """Masks 0 and 255, the background first: (n, E, H, W, 1)."""
    return (255 * (numbers[:, None] == np.arange(entities)[:, None, None])).astype(np.uint8)[
        ..., None
    ]


def columns(n, entities, **more):
    visibility = np.ones((n, entities), np.float32)
    return {"visibility": visibility, **more}


def write_set(path, image, mask, packed="gzip", **features):
    payloads = [
        encode({"image": image[i], "mask": mask[i], **{k: v[i] for k, v in features.items()}})
        for i in range(len(image))
    ]
    return write_records(path, payloads, packed)


def regions_of(truth):
    return {r.numpy().tobytes() for r in truth.region[0] if r.any()}


def test_multi_dsprites(tmp_path):
    _, numbers, images = blocks(3, 4, 64, 64)
    mask = one_hot(numbers, 5).transpose(0, 2, 3, 1, 4)  # entities last in this set
    shape = np.array([[0, 1, 2, 3, 1]] * 3, np.float32)
    path = write_set(
        tmp_path / "multi_dsprites_colored_on_colored.tfrecords", images, mask,
        **columns(3, 5, shape=shape, orientation=shape, scale=shape, x=shape, y=shape),
    )  # fmt: skip
    source = open_images(path, 64)
    assert len(source) == 3 and source.info.kind == "TFRecords of multi_dsprites"
    truth = source.scenes(torch.arange(3))
    np.testing.assert_array_equal((truth.image * 255).round().permute(0, 2, 3, 1), images)
    for b in range(3):
        one = source.scenes(torch.tensor([b]))
        want = {(numbers[b] == e).tobytes() for e in range(1, 5) if (numbers[b] == e).any()}
        assert regions_of(one) == want
    assert source.classes == ("class-1", "class-2", "class-3")
    assert truth.mask is None  # nothing is known of hidden parts
    present = [[e for e in range(1, 5) if (numbers[b] == e).any()] for b in range(3)]
    for b in range(3):
        got = truth.label[b][truth.label[b] >= 0].tolist()
        assert got == [int(shape[b, e]) - 1 for e in present[b]]


def test_grey_multi_dsprites_objects_room_and_tetrominoes(tmp_path):
    _, numbers, images = blocks(2, 3, 64, 64)
    grey = images[..., :1]
    zero = np.zeros((2, 4), np.float32)
    path = write_set(
        tmp_path / "a.tfrecords", grey, one_hot(numbers, 4).transpose(0, 2, 3, 1, 4),
        **columns(2, 4, orientation=zero),
    )  # fmt: skip
    source = open_images(path, 64)
    assert source.info.modes == {"L": 2} and source.classes == ()
    assert source.scenes(torch.arange(2)).label is None
    first = source.images(torch.tensor([0]))[0]
    assert torch.equal(first[0], first[2])

    room = numbers + 3 * (numbers > 0)  # sky, floor and two walls are numbers 0 to 3
    room[:, :8], room[:, 8:16, :32] = 1, 2
    path = write_set(tmp_path / "b.tfrecords", images, one_hot(room, 7))
    source = open_images(path, 64)
    assert "objects_room" in source.info.kind and "4 parts" in source.info.truth[0]
    region = source.scenes(torch.arange(2)).region
    np.testing.assert_array_equal(region.any(1).numpy(), room >= 4)

    _, numbers, images = blocks(2, 3, 35, 35)
    path = write_set(tmp_path / "c.tfrecords", images, one_hot(numbers, 4), **columns(2, 4))
    source = open_images(path, 32, "resize")
    assert "tetrominoes" in source.info.kind and source.info.original_sizes == {(35, 35): 2}
    assert source.images(torch.arange(2)).shape == (2, 3, 32, 32)


def test_clevr_is_cropped_as_its_masks_are(tmp_path):
    numbers = np.zeros((1, 240, 320), np.uint8)
    numbers[0, 60:180, 100:220] = 1
    images = (numbers[..., None] * np.array([200, 100, 50])).astype(np.uint8)
    path = write_set(tmp_path / "a.tfrecords", images, one_hot(numbers, 11), **columns(1, 11))
    truth = open_images(path, 48).scenes(torch.arange(1))
    # the middle 240 columns at a fifth of their size: 12 to 36 down, (100 - 40) / 5 to 36 across
    want = torch.zeros(48, 48, dtype=torch.bool)
    want[12:36, 12:36] = True
    assert torch.equal(truth.region[0, 0], want)
    inner = truth.image[0, :, 14:34, 14:34]
    assert torch.allclose(inner.mean((1, 2)) * 255, torch.tensor([200.0, 100, 50]), atol=1)


def test_cater_is_33_frames_a_record_in_several_files(tmp_path):
    _, numbers, images = blocks(33, 2, 64, 64)
    record = encode(
        {
            "image": images.tobytes(), "mask": one_hot(numbers, 11).tobytes(),
            "camera_matrix": np.zeros((33, 4, 4), np.float32),
        }
    )  # fmt: skip
    for part in range(2):
        name = f"cater_with_masks_test.tfrecords-0000{part}-of-00002"
        write_records(tmp_path / name, [record], "zlib")
    source = open_images(tmp_path, 64)
    assert len(source) == 66 and source.info.sequential
    truth = source.scenes(torch.tensor([33 + 7]))
    np.testing.assert_array_equal(truth.region.any(1)[0].numpy(), numbers[7] > 0)
    few = open_images(tmp_path, 64, limit=20)
    assert len(few) == 20 and few.info.truncated


def test_other_records_are_refused(tmp_path):
    path = write_records(tmp_path / "a.tfrecords", [encode({"image/encoded": b"jpeg"})])
    with pytest.raises(EconError, match="multi_dsprites, .*got .*image/encoded .4 uint8."):
        open_images(path, 32)
    path = write_records(tmp_path / "a.tfrecords", [b"\x0a\xff"])
    with pytest.raises(EconError, match="tf.train.Examples, got .*record 0"):
        open_images(path, 32)
    path = write_records(tmp_path / "a.tfrecords", [], "")
    with pytest.raises(EconError, match="an empty file"):
        open_images(path, 32)
    path = write_records(tmp_path / "a.tfrecords", [])
    with pytest.raises(EconError, match="which holds none"):
        open_images(path, 32)
    _, numbers, images = blocks(1, 2, 35, 35)
    path = write_set(tmp_path / "a.tfrecords", images, one_hot(numbers, 3)[:, :, :30])
    with pytest.raises(EconError, match="masks of a multiple of 1225, as in tetrominoes, got"):
        open_images(path, 32)
