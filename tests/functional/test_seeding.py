import hashlib

import torch

from verisal.functional.seeding import content_ids, derive_seed, named_after, per_sample


def draw(generator):
    return torch.rand(2, generator=generator)


def drawn(ids, *, seed=0, stream="test"):
    return per_sample(draw, seed=seed, sample_ids=ids, stream=stream, device=torch.device("cpu"))


def test_seed_is_the_first_63_bits_of_a_hash_of_the_printed_parts():
    digest = hashlib.blake2b(b"0\x1fscene\x1f17", digest_size=8).hexdigest()
    assert derive_seed(0, "scene", 17) == int(digest, 16) // 2


def test_seed_tells_order_and_borders_of_the_parts_apart():
    seeds = [derive_seed(1, 2), derive_seed(2, 1), derive_seed(12), derive_seed(1, 2, ""), derive_seed("1 2")]
    assert len(set(seeds)) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(1, "2") == derive_seed("1", 2)  # text decides, not type


def test_a_sample_draws_the_same_alone_and_in_any_company():
    whole = drawn(["a", "b", "c"])
    assert drawn(["b"])[0].equal(whole[1])
    assert drawn(["c", "a"]).equal(whole[[2, 0]])
    literal = torch.rand(2, generator=torch.Generator().manual_seed(derive_seed(0, "a", "test")))
    assert whole[0].equal(literal)


def test_no_sample_gives_an_empty_stack_of_the_right_shape():
    assert drawn([]).shape == (0, *drawn(["a"]).shape[1:])


def test_seed_id_and_stream_each_change_the_draw():
    first = drawn(["a"])
    for other in (drawn(["b"]), drawn(["a"], seed=1), drawn(["a"], stream="other")):
        assert not other.equal(first)


def test_global_state_is_neither_read_nor_moved():
    before = torch.get_rng_state()
    first = drawn(["a"])
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(99)
    assert drawn(["a"]).equal(first)


def test_copies_are_named_after_their_images_as_long_as_it_lasts():
    images = torch.rand(2, 3, 4, 5)
    copies = (images + 0.1 * torch.rand(3, 2, 3, 4, 5)).clamp(0, 1)
    names = content_ids(images)
    with named_after(images, copies):
        assert content_ids(copies.flatten(0, 1)) == names * 3
        assert content_ids(copies[2, 1:].clone()) == names[1:]
        assert content_ids(images) == names
        other = copies[0, :1] + 0.2
        assert content_ids(other) != names[:1]
        with named_after(copies[0, :1], other[None]):
            assert content_ids(torch.cat([other, copies[1, :1]])) == names[:1] * 2
    assert content_ids(copies[0]) != names
