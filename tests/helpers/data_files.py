"""Small data files in other people's formats, written without the code that reads them."""

import gzip
import struct
import zlib

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

TYPES = descriptor_pb2.FieldDescriptorProto


def _messages():
    """tf.train.Example as TensorFlow's .proto files define it, compiled by Google's protobuf."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")

    def message(name, *fields, into=file.message_type):
        made = into.add(name=name)
        for number, (field, kind, repeated) in enumerate(fields, 1):
            label = TYPES.LABEL_REPEATED if repeated else TYPES.LABEL_OPTIONAL
            add = made.field.add(name=field, number=number, label=label)
            if isinstance(kind, str):
                add.type, add.type_name = TYPES.TYPE_MESSAGE, f".t.{kind}"
            else:
                add.type = kind
        return made

    message("BytesList", ("value", TYPES.TYPE_BYTES, True))
    message("FloatList", ("value", TYPES.TYPE_FLOAT, True))
    message("Int64List", ("value", TYPES.TYPE_INT64, True))
    feature = message(
        "Feature",
        ("bytes_list", "BytesList", False),
        ("float_list", "FloatList", False),
        ("int64_list", "Int64List", False),
    )
    feature.oneof_decl.add(name="kind")
    for field in feature.field:
        field.oneof_index = 0
    features = message("Features", ("feature", "Features.FeatureEntry", True))
    entry = message(
        "FeatureEntry",
        ("key", TYPES.TYPE_STRING, False),
        ("value", "Feature", False),
        into=features.nested_type,
    )
    entry.options.map_entry = True
    message("Example", ("features", "Features", False))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))


Example = _messages()


def encode(features) -> bytes:
    """Serialise: bytes are one value, uint8 arrays one value a byte, others floats or ints."""
    made = Example()
    for name, value in features.items():
        feature = made.features.feature[name]
        if isinstance(value, bytes):
            feature.bytes_list.value.append(value)
        elif value.dtype == np.uint8:
            feature.bytes_list.value.extend(bytes([v]) for v in value.ravel().tolist())
        elif value.dtype.kind == "f":
            feature.float_list.value.extend(value.ravel().tolist())
        else:
            feature.int64_list.value.extend(value.ravel().tolist())
    return made.SerializeToString(deterministic=True)


def crc32c(data: bytes) -> int:
    """Bit by bit, from the definition: the remainder of a division by the polynomial."""
    value = 0xFFFFFFFF
    for bit in (byte >> i & 1 for byte in data for i in range(8)):
        value = value >> 1 ^ (0x82F63B78 if (value ^ bit) & 1 else 0)
    return value ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def frame(data: bytes) -> bytes:
    """One record; the checksum of the data, which is not read, is left at 0."""
    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + bytes(4)


def write_records(path, payloads, packed="gzip"):
    raw = b"".join(frame(p) for p in payloads)
    pack = {"gzip": gzip.compress, "zlib": zlib.compress, "": bytes}[packed]
    path.write_bytes(pack(raw))
    return path


def blocks(n, entities, height, width, seed=0):
    """Scenes of rectangles over one another: amodal masks front to back, numbers, images.

    Returns:
        amodal ``(n, N, H, W)`` bool; numbers ``(n, H, W)`` of who is seen, 0 the background;
        images ``(n, H, W, 3)`` uint8, painted back to front.
    """
    random = np.random.default_rng(seed)
    amodal = np.zeros((n, entities, height, width), bool)
    numbers = np.zeros((n, height, width), np.uint8)
    images = np.zeros((n, height, width, 3), np.uint8)
    for b in range(n):
        images[b] = random.integers(0, 100, 3)
        for e in reversed(range(entities)):  # painter: the first is drawn last
            top, left = random.integers(0, height // 2), random.integers(0, width // 2)
            down, across = random.integers(height // 4, height // 2, 2)
            part = np.s_[top : top + down, left : left + across]
            amodal[(b, e, *part)] = True
            numbers[b][part] = e + 1
            images[b][part] = random.integers(120, 256, 3)
    return amodal, numbers, images
