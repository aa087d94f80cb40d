// What our kernels ask of Hopper (sm_90a) by name: barriers in shared memory, the copy engine (TMA), tensor
// cores of a warpgroup (wgmma), clusters, early start. Names and rules are those of the PTX ISA, 8.0 and later.
#pragma once

using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;

struct alignas(64) TensorMap {
    char bytes[128];
};

__device__ inline u32 shared_address(const void* p) { return static_cast<u32>(__cvta_generic_to_shared(p)); }

// ---- early start: see launch.py of the Triton kernels for what may be read before wait_turn() ----
__device__ inline void start_next() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
__device__ inline void wait_turn() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

// ---- barriers ----
__device__ inline void barrier_init(u32 barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
// after the inits, before any other thread or the copy engine looks at them
__device__ inline void barriers_visible() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ inline void barrier_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ inline void barrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// at the same barrier of another block of the cluster
__device__ inline void barrier_arrive_at(u32 barrier, u32 rank) {
    asm volatile(
        "{\n.reg .b32 there;\n"
        "mapa.shared::cluster.u32 there, %0, %1;\n"
        "mbarrier.arrive.shared::cluster.b64 _, [there];\n}\n" ::"r"(barrier), "r"(rank)
        : "memory");
}
__device__ inline void barrier_wait(u32 barrier, u32 parity) {
    asm volatile(
        "{\n.reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@done bra over;\n"
        "bra again;\n"
        "over:\n}\n" ::"r"(barrier), "r"(parity)
        : "memory");
}
// of `threads` threads (whole warps) that name the same of the block's 16 hardware barriers
__device__ inline void meet(u32 name, u32 threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(name), "r"(threads) : "memory");
}

// ---- clusters ----
__device__ inline u32 cluster_rank() {
    u32 rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
// all threads of all blocks; what was written to shared memory before is seen by all after
__device__ inline void cluster_meet() {
    asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}
__device__ inline float4 load_from(u32 address, u32 rank) {
    float4 v;
    asm volatile(
        "{\n.reg .b32 there;\n"
        "mapa.shared::cluster.u32 there, %4, %5;\n"
        "ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [there];\n}\n"
        : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
        : "r"(address), "r"(rank)
        : "memory");
    return v;
}

// ---- the copy engine: boxes of a matrix, coordinates in elements, the inner one first ----
__device__ inline void fetch_map(const TensorMap* map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
__device__ inline void copy_in(u32 to, const TensorMap* map, int x, int y, u32 barrier) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];"
        ::"r"(to), "l"(map), "r"(x), "r"(y), "r"(barrier)
        : "memory");
}
// into every block of the cluster that `mask` names, at the same place, each at its own barrier
__device__ inline void copy_in_all(u32 to, const TensorMap* map, int x, int y, u32 barrier, u16 mask) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster"
        " [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to), "l"(map), "r"(x), "r"(y), "r"(barrier), "h"(mask)
        : "memory");
}
__device__ inline void copy_out(const TensorMap* map, int x, int y, u32 from) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map), "r"(x),
                 "r"(y), "r"(from)
                 : "memory");
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
__device__ inline void copies_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
__device__ inline void copies_done() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }
// what threads wrote to shared memory is there for the copy engine
__device__ inline void show_engine() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- tensor cores of a warpgroup ----
// A tile whose rows are 128 bytes of k, as the copy engine lays them with its swizzle of 128 bytes: groups of
// eight rows are 1,024 bytes apart. Sixteen elements further along k is 32 bytes further.
__device__ inline u64 tile_of(u32 address) {
    return u64(1) << 62 | u64(1024 >> 4) << 32 | u64(1) << 16 | (address & 0x3FFFF) >> 4;
}
__device__ inline void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int LEFT>
__device__ inline void products_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}
// No instruction: sums are read after the wait, which names memory and no registers.
template <int COUNT>
__device__ inline void products_settle(float (&sums)[COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) asm volatile("" : "+f"(sums[i])::"memory");
}
template <int REGISTERS>
__device__ inline void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}
template <int REGISTERS>
__device__ inline void leave_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

// ---- numbers: two of 16 bits in a word, the first in its low half ----
__device__ inline u32 pack(float low, float high) {
    u32 both;
#if HALF
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
#else
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
#endif
    return both;
}
__device__ inline float2 unpack(u32 both) {
#if HALF
    float2 v;
    asm("{\n.reg .b16 low, high;\nmov.b32 {low, high}, %2;\ncvt.f32.f16 %0, low;\ncvt.f32.f16 %1, high;\n}\n"
        : "=f"(v.x), "=f"(v.y)
        : "r"(both));
    return v;
#else
    return {__uint_as_float(both << 16), __uint_as_float(both & 0xFFFF0000u)};
#endif
}
// act(gate) * up: 1 silu, 2 gelu, 3 gelu by tanh
__device__ inline float activate(float gate, float up) {
    if (ACT == 1) return __fdividef(gate, 1.0f + __expf(-gate)) * up;
    if (ACT == 2) return 0.5f * gate * (1.0f + erff(gate * 0.70710678f)) * up;
    float inner = 0.79788456f * (gate + 0.044715f * gate * gate * gate);
    return __fdividef(gate, 1.0f + __expf(-2.0f * fmaxf(inner, -40.0f))) * up;
}
