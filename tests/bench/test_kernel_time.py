from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch._C._autograd import DeviceType

from ft.bench.kernel_time import kind_of, read_kernels, sum_up


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nvjet_tst_256x128_64x4_1x2_h_bz_coopA_NNT", "matrix products"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n", "matrix products"),
        ("void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_bf16>", "matrix products"),
        ("void cublasLt::splitKreduce_kernel<32, 16>", "matrix products"),
        (
            "void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<128, cutlass::bf16>>",
            "attention",
        ),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16", "attention"),
        ("void kDequantizeBlockwise<__nv_bfloat16, 512, 64, 8, 2>", "dequantization"),
        ("void kOptimizer32bit2State<float, 0>", "optimizer"),
        (
            "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<FusedAdam>",
            "optimizer",
        ),
        ("Memcpy HtoD (Pageable -> Device)", "copies"),
        ("Memset (Device)", "copies"),
        ("void at::native::elementwise_kernel<128, 4, direct_copy_kernel_cuda>", "copies"),
        (
            "void at::native::vectorized_elementwise_kernel<4, MulFunctor<float>>",
            "elementwise and triton",
        ),
        ("triton_red_fused__to_copy_add_mean_mul_pow_rsqrt_0", "elementwise and triton"),
        ("triton_poi_fused_mm_scaled_dot_product_flash_attention_3", "elementwise and triton"),
        ("triton_tem_fused_mm_t_7", "matrix products"),
        ("_dequantize_nf4_kernel", "dequantization"),
        (
            "triton_poi_fused___and_____rshift____to_copy_arange_index_mul_rsub_view_4",
            "dequantization",
        ),
        ("something_nobody_knows", "other"),
    ],
)
def test_a_kernel_is_known_by_its_name(name, kind):
    assert kind_of(name) == kind


def test_sums_by_kind_and_by_name():
    times = sum_up([("nvjet_a", 2.0), ("triton_b", 0.5), ("nvjet_a", 1.0), ("nvjet_c", 0.25)])
    assert times.by_kind_s == {"matrix products": 3.25, "elementwise and triton": 0.5}
    assert times.total_s == 3.75
    assert times.num_kernels == 4
    assert times.longest[0] == ("nvjet_a", 3.0, 2)


def test_the_hosts_own_events_and_marked_regions_do_not_count():
    def event(name, device, *, is_marked=False):
        time_range = SimpleNamespace(elapsed_us=lambda: 1e6)
        return SimpleNamespace(
            name=name, device_type=device, is_user_annotation=is_marked, time_range=time_range
        )

    times = read_kernels(
        [
            event("cudaLaunchKernel", DeviceType.CPU),
            event("nvjet_a", DeviceType.CUDA),
            event("Optimizer.step#AdamW.step", DeviceType.CUDA, is_marked=True),
        ]
    )
    assert times.by_kind_s == {"matrix products": 1.0}


def test_on_a_host_a_profiler_sees_no_kernels():
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        torch.ones(4) @ torch.ones(4)
    assert read_kernels(profiler.events()).num_kernels == 0


@pytest.mark.gpu
def test_on_a_card_it_sees_them():
    matrix = torch.ones(512, 512, device="cuda", dtype=torch.bfloat16)
    matrix @ matrix
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities, acc_events=True) as profiler:
        for _ in range(3):
            product = matrix @ matrix
        product.add_(1)
        torch.cuda.synchronize()
    times = read_kernels(profiler.events())
    assert times.by_kind_s["matrix products"] > 0
    assert times.by_kind_s["elementwise and triton"] > 0
    assert times.num_kernels >= 4
