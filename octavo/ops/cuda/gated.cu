// Gate and up of many rows in one product: y = act(x @ gate.T) * (x @ up.T), all of 16 bits, sums in float32; they
// are rounded before their activation.
//
// A block makes 128 rows by 128 outputs (256 weight rows: gate's and up's), two warpgroups of 64 rows each; one
// thread feeds them through a ring by the copy engine. Two blocks of a cluster stand one above the other: each
// fetches half of the weights they share into both. Blocks stay and take tile after tile; the activation is done
// beside the first steps of the next tile, and results leave by the copy engine, too. Compiled with ACT and
// HALF (float16, else bfloat16).

constexpr int BAND = 4;  // times 256 rows, which pass over the weights together
constexpr int DEPTH = 64, STAGES = 4, WORKERS = 256;
constexpr int X_BYTES = 128 * DEPTH * 2, W_HALF = 128 * DEPTH * 2, STAGE = X_BYTES + 2 * W_HALF;
constexpr int BOX = 64 * 64 * 2;  // bytes of results that leave at once
constexpr int PARTS = 8;          // of a tile's results: 64 rows by 16

struct Tiles {
    int tall, wide, step;

    __device__ void place(int t, int& m, int& n) const {
        int band = t / (BAND * wide), first = band * BAND, height = min(BAND, tall - first);
        int within = t - first * wide;
        m = first + within % height, n = within / height;
    }
    __device__ int count() const { return tall * wide; }
};

__device__ void bring(const TensorMap* xs, const TensorMap* ws, const Tiles& tiles, u32 ring, u32 full, u32 empty,
                      int steps, int outputs, int rank) {
    int s = 0;
    u32 phase = 1;
    for (int t = blockIdx.x / 2; t < tiles.count(); t += tiles.step) {
        int m, n;
        tiles.place(t, m, n);
        int row = m * 256 + rank * 128, weight = n * 128 + rank * outputs;
        for (int step = 0; step < steps; ++step) {
            u32 to = ring + s * STAGE, ready = full + 8 * s;
            barrier_wait(empty + 8 * s, phase);
            barrier_expect(ready, STAGE);
            copy_in(to, xs, step * DEPTH, row, ready);
            copy_in_all(to + X_BYTES + rank * W_HALF, ws, step * DEPTH, weight, ready, 3);
            if (++s == STAGES) s = 0, phase ^= 1;
        }
    }
}

__device__ inline void free_stage(u32 empty, int s, int lane) {
    if (lane < 2) barrier_arrive_at(empty + 8 * s, lane);
}

// A warpgroup's sums of a tile, gate's and then up's, as they wait while the next one is multiplied: of each eight
// columns a thread has two, of each of two rows.
struct Kept {
    u32 sums[64];
    int m = -1, n = 0;

    __device__ void take(const float (&from)[128]) {
#pragma unroll
        for (int i = 0; i < 64; ++i) sums[i] = pack(from[2 * i], from[2 * i + 1]);
    }
    __device__ u32 result(int i) const {
        float2 gate = unpack(sums[i]), up = unpack(sums[i + 32]);
        return pack(activate(gate.x, up.x), activate(gate.y, up.y));
    }
};

struct Worker {
    const TensorMap* ys;
    u32 ring, full, empty, boxes;
    int steps, rank, warp, lane, s = 0, before = 0;
    u32 phase = 0;

    __device__ bool leads() const { return warp % 4 == 0 && lane == 0; }

    __device__ void begin(float (&sums)[128], int step) {
        barrier_wait(full + 8 * s, phase);
        u64 x = tile_of(ring + s * STAGE + warp / 4 * (X_BYTES / 2)), w = tile_of(ring + s * STAGE + X_BYTES);
        products_begin();
#pragma unroll
        for (int part = 0; part < DEPTH / 16; ++part) product(sums, x + 2 * part, w + 2 * part, step + part);
        products_commit();
    }
    __device__ void end(int step) {
        products_wait<1>();
        if (step) free_stage(empty, before, lane);
        before = s;
        if (++s == STAGES) s = 0, phase ^= 1;
    }
    // Sixteen columns of results into a box of 64 by 64, whose rows' parts of 16 bytes are swizzled; the last part
    // fills the second box, and both leave.
    template <int PART>
    __device__ void finish(const Kept& kept) const {
        if (kept.m < 0) return;
        if (PART == 0) {
            if (leads()) copies_read();
            meet(1 + warp / 4, 128);
        }
        const int row = warp % 4 * 16 + lane % 16, piece = 2 * PART + lane / 16;
        const u32 place = boxes + piece / 8 * BOX + row * 128 + (piece % 8 ^ row % 8) * 16;
        asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(place),
                     "r"(kept.result(4 * PART)), "r"(kept.result(4 * PART + 1)), "r"(kept.result(4 * PART + 2)),
                     "r"(kept.result(4 * PART + 3))
                     : "memory");
        if (PART == PARTS - 1) leave(kept.m * 256 + rank * 128 + warp / 4 * 64, kept.n * 128);
    }
    __device__ void leave(int row, int column) const {
        show_engine();
        meet(1 + warp / 4, 128);
        if (!leads()) return;
        copy_out(ys, column, row, boxes);
        copy_out(ys, column + 64, row, boxes + BOX);
    }
    // the first steps of a tile, each beside a part of the last one's results; without sums the results alone
    template <int PART = 0>
    __device__ void both(float (*sums)[128], const Kept& kept) {
        const bool more = sums && PART < steps;
        if (more) begin(*sums, PART);
        finish<PART>(kept);
        if (more) end(PART);
        if constexpr (PART + 1 < PARTS) both<PART + 1>(sums, kept);
    }
    __device__ void work(const Tiles& tiles) {
        float sums[128];
        Kept kept;
        for (int t = blockIdx.x / 2; t < tiles.count(); t += tiles.step) {
            both(&sums, kept);
            for (int step = PARTS; step < steps; ++step) begin(sums, step), end(step);
            products_wait<0>();
            products_settle(sums);
            free_stage(empty, before, lane);
            kept.take(sums);
            tiles.place(t, kept.m, kept.n);
        }
        both(nullptr, kept);
        if (leads()) copies_done();
    }
};

extern "C" __global__ void __launch_bounds__(WORKERS + 128, 1)
    gated(const __grid_constant__ TensorMap xs, const __grid_constant__ TensorMap ws,
          const __grid_constant__ TensorMap ys, int rows, int outputs, int depth) {
    extern __shared__ char unaligned[];
    __shared__ alignas(8) u64 barriers[2 * STAGES];
    const u32 ring = (shared_address(unaligned) + 1023) & ~1023u, boxes = ring + STAGES * STAGE;
    const u32 full = shared_address(barriers), empty = full + 8 * STAGES;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, rank = cluster_rank();
    const int steps = (depth + DEPTH - 1) / DEPTH;
    const Tiles tiles{(rows + 255) / 256, (outputs + 127) / 128, int(gridDim.x) / 2};

    start_next();
    if (threadIdx.x == WORKERS) {
        for (int s = 0; s < STAGES; ++s) barrier_init(full + 8 * s, 1), barrier_init(empty + 8 * s, 2 * WORKERS / 32);
        barriers_visible();
        fetch_map(&xs), fetch_map(&ws), fetch_map(&ys);
    }
    wait_turn();
    cluster_meet();
    if (warp >= WORKERS / 32) {
        leave_registers<40>();
        if (threadIdx.x == WORKERS) bring(&xs, &ws, tiles, ring, full, empty, steps, outputs, rank);
    } else {
        take_registers<232>();
        Worker worker{&ys, ring, full, empty, boxes + warp / 4 * 2 * BOX, steps, rank, warp, lane};
        worker.work(tiles);
    }
    __syncwarp();
    cluster_meet();  // the other block's copies and arrivals have come
}
