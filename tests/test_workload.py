"""Counting: small sums by hand, closed forms, published numbers, and the command line."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from src import models, schema, trace, workload
from src.models import Network
from src.workload import count

META = torch.device("meta")


def network(*layers: nn.Module, shape: tuple[int, ...]) -> Network:
    """A chain of layers as a network."""
    return Network("chain", "own", shape, lambda: nn.Sequential(*layers))


def record(module: nn.Module, *inputs: torch.Tensor, loss=None) -> trace.Trace:
    return trace.record(module.to(META), inputs, loss)


def only(operations, name: str, phase: str | None = None):
    """The one operation of that name and phase."""
    (found,) = [o for o in operations if o.name == f"aten.{name}" and phase in (None, o.phase)]
    return found


def test_convolution_by_hand():
    counted = count(network(nn.Conv2d(3, 8, 3, padding=1), shape=(3, 10, 10)), 2)
    (operation,) = counted.operations
    # Each of the 8 x 10 x 10 outputs of each of 2 images sums 3 x 3 x 3 products: 2 x 2 x 800 x 27.
    assert operation.flop == counted.flop == 86_400
    assert operation.other_flop == 1600  # one bias addition per output
    # Input 2 x 3 x 100, weight 8 x 27, bias 8 elements of 4 bytes; output 2 x 8 x 100.
    assert operation.bytes_read == 2400 + 864 + 32
    assert operation.bytes_written == 6400
    assert (operation.param_bytes, operation.param_count) == (896, 224)
    assert counted.bytes_min == counted.bytes_eager == 2400 + 896 + 6400
    assert counted.activation_count == 1600
    assert counted.peak_memory_byte == 896 + 2400 + 6400
    assert (operation.module, operation.layer_type, operation.phase) == ("0", "convolution", "inference")


def test_linear_by_hand_forward_and_backward():
    counted = count(network(nn.Linear(16, 4), nn.Linear(4, 6, bias=False), shape=(16,)), 3, backward=True)
    # Forward: 2 x 3 x 16 x 4 and 2 x 3 x 4 x 6.
    assert [o.flop for o in counted.forward if o.flop] == [384, 144]
    # Backward: the second layer needs weight and input gradient, the first has no input gradient: 2 x 144 + 384.
    assert counted.backward_flop == 672
    assert [(o.module, o.flop) for o in counted.backward if o.flop] == [("1", 144), ("1", 144), ("0", 384)]
    # The second layer's weight gradient reads the output gradient (3 x 6) and its input (3 x 4), writes 6 x 4.
    weight = next(o for o in counted.backward if o.output_shapes == ((6, 4),))
    assert (weight.bytes_read, weight.bytes_written) == (72 + 48, 96)


def test_bf16_halves_what_the_precision_sizes():
    chain = network(nn.Linear(16, 4), shape=(16,))
    full, half = count(chain, 3), count(chain, 3, "bf16")
    assert (full.bytes_eager, full.flop) == (2 * half.bytes_eager, half.flop)
    assert count(chain, 3, "tf32").bytes_eager == full.bytes_eager


@pytest.mark.parametrize(
    ("layer", "flop", "layer_type"),
    [
        # Outputs x products per output x 2, for one image of 4 x 6 x 6; without padding a 3x3 kernel leaves 4 x 4.
        (nn.Conv2d(4, 8, 1), 8 * 36 * 4 * 2, "pointwise convolution"),
        (nn.Conv2d(4, 4, 3, groups=4), 4 * 16 * 9 * 2, "depthwise convolution"),
        (nn.Conv2d(4, 8, 3, groups=4), 8 * 16 * 9 * 2, "depthwise convolution"),
        (nn.Conv2d(4, 8, 3, groups=2), 8 * 16 * 2 * 9 * 2, "convolution"),
        (nn.Conv2d(4, 8, 1, groups=2), 8 * 36 * 2 * 2, "convolution"),
        # Transposed: each of 4 x 36 inputs meets 8 x 9 weights.
        (nn.ConvTranspose2d(4, 8, 3), 4 * 36 * 8 * 9 * 2, "convolution"),
    ],
)
def test_kinds_of_convolution_forward_and_backward(layer, flop, layer_type):
    first = nn.Conv2d(4, 4, 1)  # so that the layer under test needs its input gradient
    counted = count(network(first, layer, shape=(4, 6, 6)), 1, backward=True)
    forward = [o for o in counted.forward if o.module == "1"]
    backward = [o for o in counted.backward if o.module == "1"]
    assert [(o.flop, o.layer_type) for o in forward] == [(flop, layer_type)]
    # Grouped or not, both gradients cost a forward pass each.
    assert [(o.flop, o.layer_type) for o in backward] == [(2 * flop, layer_type)]


def test_attention_is_two_products_forward_and_four_backward():
    class Attention(nn.Module):
        def forward(self, query, key, value):
            return F.scaled_dot_product_attention(query, key, value)

    query, key, value = (torch.empty(2, 3, n, 8, device=META, requires_grad=True) for n in (5, 7, 7))
    recorded = record(Attention(), query, key, value, loss=lambda out, _: out.sum())
    forward = only(recorded.operations, "_scaled_dot_product_flash_attention_for_cpu")
    backward = only(recorded.operations, "_scaled_dot_product_flash_attention_for_cpu_backward")
    # 2 x 3 heads, 5 x 7 scores, 8 products each: query with key, then scores with value.
    assert forward.flop == 2 * (2 * 6 * 35 * 8)
    assert backward.flop == 4 * (2 * 6 * 35 * 8)
    # Reads query, key and value; writes the result and one logarithm per query, but no scores.
    assert forward.bytes_read == 4 * 6 * 8 * (5 + 7 + 7)
    assert forward.bytes_written == 4 * 6 * 5 * (8 + 1)
    assert forward.layer_type == backward.layer_type == "attention"


def test_traffic_of_views_in_place_work_expansion_and_repeated_arguments():
    class Mixed(nn.Module):
        def forward(self, x):
            y = x.t().reshape(2, 4).unsqueeze(0)[..., 1:].squeeze(0)  # transposing back copies 8 elements
            y.relu_()  # reads and writes 6
            z = y * y  # reads 6 once, writes 6
            return z + z[:1].expand(2, 3)  # reads 6 and 3, writes 6

    recorded = record(Mixed(), torch.empty(2, 4, device=META))
    moved = [(o.name, o.bytes_read // 4, o.bytes_written // 4) for o in recorded.operations]
    assert moved == [("aten.clone", 8, 8), ("aten.relu_", 6, 6), ("aten.mul", 6, 6), ("aten.add", 9, 6)]


def test_an_embedding_reads_the_rows_that_it_looks_up():
    counted = count("tests.own_networks:with_inputs", 2)
    (operation,) = counted.operations
    # 2 x 5 indices of 8 bytes, 10 rows of 3 elements of 4 bytes -- but the table has only 7 rows, which suffices.
    assert operation.bytes_read == 80 + 84
    assert count("tests.own_networks:with_inputs", 1).operations[0].bytes_read == 40 + 60  # 5 rows
    assert operation.param_count == 21


def test_live_memory_of_a_chain_in_inference():
    layers = (nn.Linear(4, 8, bias=False), nn.Linear(8, 2, bias=False), nn.Linear(2, 6, bias=False))
    counted = count(network(*layers, shape=(4,)), 5)
    # Outputs of 5 x 8, 5 x 2 and 5 x 6 elements: 160, 40 and 120 bytes. The first dies when the second is made.
    assert [o.live_byte for o in counted.operations] == [160, 200, 160]
    assert counted.activation_peak_byte == 200
    # Weights 4 x 8 + 8 x 2 + 2 x 6 = 60 elements, input 5 x 4.
    assert counted.peak_memory_byte == 240 + 80 + 200


def test_live_memory_of_a_chain_in_training():
    layers = (nn.Linear(4, 8, bias=False), nn.Linear(8, 2, bias=False), nn.Linear(2, 6, bias=False))
    recorded = record(nn.Sequential(*layers), torch.empty(5, 4, device=META), loss=lambda out, _: out.sum())
    forward = [o.live_byte for o in recorded.operations if o.phase == "forward"]
    # Saved: 160 and 40 bytes, read by the next layer's weight gradient. The sum adds 4.
    assert forward == [160, 200, 320, 324]
    # The most: while the second layer makes its gradients, there live the loss and its gradient (8), the first
    # activation (160), the third weight's gradient (2 x 6: 48), the second activation's gradient (40; the activation
    # died with the third layer's node), the second weight's gradient (8 x 2: 64) and the first activation's (160).
    assert recorded.peak_live_byte == 8 + 160 + 48 + 40 + 64 + 160


def test_training_memory_holds_gradients_and_the_optimiser_s_state():
    chain = network(nn.Linear(100, 100, bias=False), shape=(100,))
    plain, momentum, adam = (
        count(chain, 1, "fp32", True, kind).peak_memory_byte for kind in ("sgd", "momentum", "adam")
    )
    assert (momentum - plain, adam - plain) == (40_000, 80_000)
    assert count(chain, 1, "fp32", True).activation_peak_byte >= 40_000  # the weight's gradient


@pytest.mark.parametrize("name", models.torchvision_names())
def test_macs_and_parameters_equal_torchvision_s_metadata(name):
    counted = count(name)
    meta = models.torchvision_weights(name).meta
    # Published in units of 1e9 multiply-accumulates with three decimals.
    assert counted.flop % 2 == 0 and abs(counted.macs - meta["_ops"] * 1e9) <= 0.5e6
    # Inception's published number includes its auxiliary head, which inference does not run; GoogLeNet's does not.
    auxiliary = counted.unused_param_count if name == "inception_v3" else 0
    assert counted.param_count + auxiliary == meta["num_params"]
    assert bool(counted.unused_param_count) == (name in ("googlenet", "inception_v3"))
    assert counted.uncounted == ()


@pytest.mark.parametrize("name", ["resnet18", "swin_t", "mobilenet_v3_small", "vit_b_32"])
def test_forward_flop_equal_torch_s_own_counter(name):
    found = models.get(name)
    with FlopCounterMode(display=False) as counter:
        found.build_meta().eval()(*found.inputs(3, META))
    assert count(name, 3).flop == counter.get_total_flops()


@pytest.mark.parametrize("name", ["resnet18", "vit_b_32"])
def test_backward_flop_equal_torch_s_own_counter_without_groups_and_recomputation(name):
    found = models.get(name)
    module, inputs = found.build_meta().train(), found.inputs(2, META)
    with FlopCounterMode(display=False) as counter:
        found.loss(module(*inputs), inputs).backward()
    counted = count(name, 2, backward=True)
    assert counted.flop + counted.backward_flop == counter.get_total_flops()


@pytest.mark.parametrize(
    "name", ["densenet121", "efficientnet_b0", "mobilenet_v3_large", "shufflenet_v2_x1_0", "vit_b_32"]
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_results_made_without_torch_are_those_that_torch_derives(name, precision, monkeypatch):
    found, dtype = models.get(name), workload.PRECISIONS[precision]
    for loss in (None, found.loss):
        traces = []
        for used in (True, False):
            monkeypatch.setattr(trace, "SHORTCUTS_ARE_USED", used)
            traces.append(trace.record(found.build_meta().to(dtype), found.inputs(2, META, dtype), loss))
        assert traces[0] == traces[1]


def test_vit_counts_attention_s_products():
    counted = count("vit_b_16")
    attention = sum(o.flop for o in counted.operations if o.layer_type == "attention")
    # 12 layers, 197 x 197 scores, 768 products each, twice.
    assert attention // 2 == 12 * 2 * 197 * 197 * 768
    assert round(counted.macs / 1e9, 2) == 17.56 and round((counted.flop - attention) / 2e9, 2) == 16.85


def test_gpt2_prefill_in_closed_form():
    s, d, v = 512, 768, 50257
    # Per layer: 3 d^2 for query, key and value, d^2 out, 8 d^2 perceptron; attention 2 s^2 d. Last position's logits.
    assert count("gpt2_prefill", 2).flop == 2 * 2 * (12 * (s * 12 * d * d + 2 * s * s * d) + d * v)
    training = count("gpt2_prefill", 2, backward=True)
    assert training.flop == 2 * 2 * (12 * (s * 12 * d * d + 2 * s * s * d) + s * d * v)
    # Every product's two factors need a gradient, for an embedding comes first: exactly twice the forward pass.
    assert training.backward_flop == 2 * training.flop
    assert training.param_count == 124_439_808  # the output shares the embedding's weight


def test_gpt2_decode_in_closed_form():
    d, v, length, batch = 768, 50257, 513, 4
    counted = count("gpt2_decode", batch)
    assert counted.flop == 2 * batch * (12 * (12 * d * d + 2 * length * d) + d * v)
    cache = 4 * 12 * 2 * batch * length * d
    assert counted.input_byte == cache + 8 * batch  # and one token each
    # Minimum: all parameters but 1023 of the 1024 positions, cache and token in, logits out.
    assert counted.bytes_min == 4 * (124_439_808 - 1023 * d) + cache + 8 * batch + 4 * batch * v


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "vit_b_32", "swin_t", "gpt2_decode"])
def test_counts_are_linear_in_the_batch_size(name):
    two, three, seven = (count(name, n) for n in (2, 3, 7))
    for quantity in ("flop", "other_flop", "activation_count"):
        # Work is proportional to the batch; Swin masks its shifted windows once per call.
        per_input = getattr(three, quantity) - getattr(two, quantity)
        assert getattr(seven, quantity) == getattr(two, quantity) + 5 * per_input
    assert two.flop * 7 == seven.flop * 2 and two.activation_count * 7 == seven.activation_count * 2
    for quantity in ("bytes_min", "bytes_eager", "peak_memory_byte"):
        per_input = getattr(three, quantity) - getattr(two, quantity)
        assert getattr(seven, quantity) == getattr(two, quantity) + 5 * per_input
    assert len(two.operations) == len(count(name, 256).operations)


@pytest.mark.parametrize("name", ["googlenet", "efficientnet_b0", "gpt2_prefill"])
def test_layers_sum_to_the_total_exactly(name):
    counted = count(name, 2, backward=True)
    for grouping in ("type", "module", "op"):
        groups = workload.by(counted.operations, grouping)
        forward = [group for group in groups if group["phase"] == "forward"]
        assert sum(group["flop"] for group in forward) == counted.flop
        assert sum(group["flop"] for group in groups) == counted.flop + counted.backward_flop
        assert sum(group["bytes_moved"] for group in forward) == counted.bytes_eager
        assert sum(group["param_count"] for group in groups) == counted.param_count
    top = workload.by(counted.forward, "module", depth=1)
    assert sum(group["flop"] for group in top) == counted.flop
    assert {g["group"] for g in workload.by(counted.operations, "type")} <= set(schema.LAYER_TYPES)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "efficientnet_b0", "convnext_tiny"])
def test_backward_convolutions_belong_to_the_layers_that_made_them(name):
    counted = count(name, 2, backward=True)
    forward = [(o.module, o.layer_type) for o in counted.forward if o.name == "aten.convolution"]
    backward = [(o.module, o.layer_type) for o in counted.backward if o.name == "aten.convolution_backward"]
    assert backward == forward[::-1]
    activations = {o.module for o in counted.forward if o.layer_type == "activation"}
    assert activations == {o.module for o in counted.backward if o.layer_type == "activation"}


def test_the_first_layer_has_no_input_gradient():
    counted = count("resnet18", 1, backward=True)
    first, *others = [o.flop for o in counted.forward if o.flop]
    assert counted.backward_flop == 2 * sum(others) + first


def test_training_runs_auxiliary_heads_that_inference_leaves_out():
    inference, training = count("googlenet", 2), count("googlenet", 2, backward=True)
    assert training.flop > inference.flop
    assert training.param_count == inference.param_count + inference.unused_param_count
    with pytest.raises(ValueError, match="batches of at least 2"):
        count("inception_v3", 1, backward=True)


def test_operations_without_a_formula_are_listed_with_their_bytes():
    counted = count("tests.own_networks:without_formula", 2)
    (listed,) = counted.uncounted
    assert listed["name"] == "aten.linalg_matrix_exp"
    # The linear layer reads 2 x 8 x 8 and 8 x 8 elements and writes 128; the exponential reads and writes 128.
    assert listed["bytes"] == 4 * 256 and listed["share"] == 256 / (256 + 128 + 64 + 128)
    assert workload.row(counted)["uncounted_bytes_share"] == listed["share"]


def test_tensors_that_forward_makes_follow_to_the_meta_device():
    # Integer arange: 6; times 1 each; the sums 2 x 6.
    assert count("tests.own_networks:makes_tensors", 2).output_byte == 4 * 12


@pytest.mark.parametrize(
    ("name", "operation"), [("selects_by_value", "aten.nonzero"), ("branches_by_value", "aten._local_scalar_dense")]
)
def test_an_untraceable_network_names_operation_layer_and_remedy(name, operation, capsys):
    with pytest.raises(trace.UntraceableError, match=operation) as caught:
        count(f"tests.own_networks:{name}")
    assert f"tests.own_networks:{name}" in str(caught.value) and "replace what depends on values" in str(caught.value)
    assert ("layer '1'" in str(caught.value)) == (name == "selects_by_value")
    assert workload.main([f"tests.own_networks:{name}", "resnet18", "--json"]) == 1
    printed = capsys.readouterr()
    assert [row["model"] for row in json.loads(printed.out)] == ["resnet18"] and operation in printed.err


def test_a_trace_leaves_torch_as_it_was():
    attention, fast_path = F.scaled_dot_product_attention, torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(trace.UntraceableError):
        count("tests.own_networks:selects_by_value", 3)
    assert F.scaled_dot_product_attention is attention
    assert torch.backends.mha.get_fastpath_enabled() == fast_path
    assert torch.is_grad_enabled() and nn.Linear(2, 2)(torch.ones(1, 2)).device.type == "cpu"


@pytest.mark.parametrize("arguments", [("resnet18", 0), ("resnet18", 1, "int8"), ("resnet18", 1, "fp32", True, "lion")])
def test_arguments_that_make_no_sense_are_refused(arguments):
    with pytest.raises(ValueError, match=r"must be"):
        count(*arguments)


def test_rows_have_the_columns_of_the_schema():
    rows = workload.rows(["resnet18", "gpt2_decode"], (1, 4), ("fp32", "bf16"))
    assert [tuple(row) for row in rows] == [tuple(schema.WORKLOADS.names)] * 8
    for row in rows:
        for column in schema.WORKLOADS.columns:
            value = row[column.name]
            assert column.parse("" if value is None else str(value)) == value
    assert rows[-1]["backward_flop"] is None and rows[0]["backward_flop"] > rows[0]["flop"]
    operations = workload.operation_frame([count("resnet18", 2)])
    assert list(operations.columns) == schema.OPERATIONS.names and operations.flop.sum() == count("resnet18", 2).flop
    assert list(workload.frame(["alexnet"]).columns) == schema.WORKLOADS.names


def test_command_line_prints_rows(capsys):
    assert workload.main(["resnet18", "vit_b_32", "--batch-size", "64", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["model"], row["batch_size"], row["precision"]) for row in rows] == [
        ("resnet18", 64, "fp32"),
        ("vit_b_32", 64, "fp32"),
    ]
    assert rows[0]["flop"] == count("resnet18", 64).flop
    assert rows[0]["backward_flop"] == count("resnet18", 64, backward=True).backward_flop


def test_command_line_prints_tables(capsys):
    assert workload.main(["resnet18"]) == 0
    header, line = capsys.readouterr().out.splitlines()
    assert "GFLOP" in header and "backward" not in header and "3.628" in line  # 2 x 1.814 GMAC
    assert workload.main(["resnet18", "--backward"]) == 0
    assert "backward GFLOP" in capsys.readouterr().out
    assert workload.main(["resnet18", "--by", "type", "--backward"]) == 0
    assert {"forward", "backward"} <= set(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [(["resnet51"], "did you mean resnet50"), (["--batch-size", "0"], "at least 1"), (["--by", "colour"], "invalid")],
)
def test_wrong_arguments_exit_2_with_a_sentence(arguments, sentence, capsys):
    with pytest.raises(SystemExit) as caught:
        workload.main(arguments)
    assert caught.value.code == 2 and sentence in capsys.readouterr().err
