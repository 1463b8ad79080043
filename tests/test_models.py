"""The registry: what a name means, what a network takes in, and its loss."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from src import models


def test_every_measured_network_is_known_and_builds_without_memory():
    networks = models.measured()
    assert [network.name for network in networks] == list(models.MEASURED)
    for network in networks:
        assert network.family in models.FAMILIES
        assert all(parameter.device.type == "meta" for parameter in network.build_meta().parameters())


@pytest.mark.parametrize("name", ["squeezenet1_1", "regnet_y_400mf", "swin_t"])
def test_the_meta_module_has_the_same_tensors_as_the_real_one(name):
    network = models.get(name)
    meta, real = network.build_meta().state_dict(), network.build().state_dict()
    assert {k: (v.shape, v.dtype) for k, v in meta.items()} == {k: (v.shape, v.dtype) for k, v in real.items()}


def test_building_on_meta_leaves_modules_as_they_were():
    models.get("alexnet").build_meta()
    layer = nn.Linear(2, 2)
    assert layer.weight.device.type == "cpu"
    assert torch.equal(nn.init.ones_(layer.weight), torch.ones(2, 2))


def test_inputs_are_the_same_each_time_and_follow_batch_device_and_dtype():
    network = models.get("resnet18")
    (first,), (second,) = network.inputs(2), network.inputs(2)
    assert first.shape == (2, 3, 224, 224) and torch.equal(first, second)
    (meta,) = network.inputs(256, "meta", torch.bfloat16)
    assert (meta.shape[0], meta.device.type, meta.dtype) == (256, "meta", torch.bfloat16)
    with pytest.raises(ValueError, match="at least 1"):
        network.inputs(0)


def test_published_input_sizes():
    sizes = {name: models.get(name).input_shape[-1] for name in ("resnet50", "inception_v3", "efficientnet_b7")}
    assert sizes == {"resnet50": 224, "inception_v3": 299, "efficientnet_b7": 600}


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(models.UnknownModelError) as caught:
        models.get("resnet51")
    assert caught.value.nearest[0] == "resnet50" and "did you mean resnet50" in str(caught.value)
    with pytest.raises(KeyError, match="gpt2_prefill"):
        models.get("gpt2_prefil")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no_such_module:network", "No module named"),
        ("tests.own_networks:missing", "no attribute"),
        ("tests.own_networks:not_callable", "not a callable"),
        ("builtins:dict", "not a torch.nn.Module"),
    ],
)
def test_a_reader_s_own_name_that_leads_nowhere_says_why(name, reason):
    with pytest.raises(models.UnknownModelError, match=reason):
        models.get(name)


def test_a_reader_s_own_network_states_its_inputs():
    assert models.get("tests.own_networks:tiny").input_shape == (3, 224, 224)
    assert models.get("tests.own_networks:with_shape").inputs(2)[0].shape == (2, 6)
    tokens = models.get("tests.own_networks:with_inputs").inputs(3)[0]
    assert tokens.shape == (3, 5) and tokens.dtype == torch.int64


def test_loss_adds_auxiliary_heads_with_their_weight():
    network = models.get("googlenet")
    main, aux1, aux2 = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0))
    batch = (torch.zeros(2, 3, 4, 4),)
    separate = [network.loss(logits, batch) for logits in (main, aux1, aux2)]
    # main + 0.3 (first auxiliary + second auxiliary)
    assert torch.isclose(network.loss((main, aux1, aux2), batch), separate[0] + 0.3 * (separate[1] + separate[2]))
    assert torch.equal(network.loss((main, None, None), batch), separate[0])


def test_loss_refuses_what_it_cannot_train():
    with pytest.raises(TypeError, match="returns dict"):
        models.get("resnet18").loss({}, ())
    with pytest.raises(ValueError, match="no training step"):
        models.get("gpt2_decode").loss(torch.zeros(1, 1, 5), ())


def test_decoding_one_token_gives_the_logits_of_prefill():
    from src.gpt2 import HEAD_WIDTH, HEADS, LAYERS

    network = models.get("gpt2_prefill").build().eval()
    tokens = torch.randint(50257, (1, 6), generator=torch.Generator().manual_seed(0))
    cache = torch.zeros(LAYERS, 2, 1, HEADS, 6, HEAD_WIDTH)

    def keep(layer):
        def hook(module, args, out):
            if out.shape[1] == 6:
                cache[layer] = out.view(1, 6, 3, HEADS, HEAD_WIDTH).permute(2, 0, 3, 1, 4)[1:]

        return hook

    for layer, block in enumerate(network.blocks):
        block.attention.qkv.register_forward_hook(keep(layer))
    with torch.inference_mode():
        expected = network(tokens)
        cache[..., -1, :] = 0  # the last token's keys and values are decoding's to compute
        decoded = network(tokens[:, -1:], cache)
    assert expected.shape == decoded.shape == (1, 1, 50257)
    assert torch.allclose(expected, decoded, atol=1e-3)
