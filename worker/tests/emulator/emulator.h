// What kernels.cu needs of CUDA, on a processor: a block's threads are fibers of one thread, which change
// places only where they wait for each other. A wait that not all come to, a shuffle that not all take part
// in, and an address that isn't aligned end the program and say so.
#pragma once

#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <vector>

#define EMULATED
#define __global__
#define __device__ inline
#define __forceinline__
#define __shared__ static
#define __launch_bounds__(...)

struct Dim3 { unsigned x, y, z; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) float4 { float x, y, z, w; };

[[noreturn]] inline void give_up(const char *why) {
    fprintf(stderr, "the emulated GPU: %s\n", why);
    fflush(stderr);
    _exit(3);
}

// What a lane brings to an operation of its warp, and what it gets.
struct Lane {
    const void *where;
    uint64_t value, result;
    float *sum;
    const unsigned *left;
    unsigned right[2];
};

struct Warp {
    Lane lanes[32];
    int arrived = 0;
    unsigned generation = 0;
};

struct Fiber {
    Dim3 thread;
    jmp_buf state;
    ucontext_t start;
    std::vector<char> stack;
    bool has_begun, is_done;
    // The generation that it waits to be over, and whose.
    const unsigned *waits_for;
    unsigned generation;
};

struct Machine {
    Dim3 block, block_size, grid;
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    int alive, arrived;
    unsigned generation;
    Fiber *current;
    jmp_buf scheduler;
    std::function<void()> body;
    uint32_t order = 1;
};

inline Machine machine;

#define threadIdx (machine.current->thread)
#define blockIdx (machine.block)
#define blockDim (machine.block_size)
#define gridDim (machine.grid)

__attribute__((noinline)) inline void leave() {
    if (_setjmp(machine.current->state) == 0) _longjmp(machine.scheduler, 1);
}

__attribute__((noinline)) inline void wait_for(const unsigned *generation) {
    Fiber *fiber = machine.current;
    fiber->waits_for = generation, fiber->generation = *generation;
    leave();
}

inline void run_fiber() {
    machine.body();
    machine.current->is_done = true;
    machine.alive--;
    _longjmp(machine.scheduler, 1);
}

__attribute__((noinline)) inline void resume(Fiber &fiber) {
    machine.current = &fiber;
    if (_setjmp(machine.scheduler) != 0) return;
    if (fiber.has_begun) _longjmp(fiber.state, 1);
    fiber.has_begun = true;
    setcontext(&fiber.start);
}

// Runs all blocks of a kernel, one after another, its threads in a random order.
inline void launch(Dim3 grid, unsigned threads, std::function<void()> body) {
    if (threads % 32 != 0 || threads == 0 || 1024 < threads) give_up("a block is no whole number of warps");
    machine.grid = grid, machine.block_size = {threads, 1, 1}, machine.body = std::move(body);
    if (machine.fibers.size() < threads) machine.fibers.resize(threads);
    std::vector<unsigned> order(threads);
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                machine.block = {x, y, z};
                machine.warps.assign(threads / 32, Warp());
                machine.alive = threads, machine.arrived = 0, machine.generation = 0;
                for (unsigned i = 0; i < threads; i++) {
                    Fiber &fiber = machine.fibers[i];
                    order[i] = i;
                    if (fiber.stack.empty()) fiber.stack.resize(64 << 10);
                    fiber.thread = {i, 0, 0}, fiber.has_begun = fiber.is_done = false, fiber.waits_for = nullptr;
                    getcontext(&fiber.start);
                    fiber.start.uc_stack.ss_sp = fiber.stack.data(), fiber.start.uc_stack.ss_size = fiber.stack.size();
                    fiber.start.uc_link = nullptr;
                    makecontext(&fiber.start, run_fiber, 0);
                }
                for (unsigned i = threads - 1; 0 < i; i--) {
                    machine.order = machine.order * 1664525 + 1013904223;
                    std::swap(order[i], order[(machine.order >> 8) % (i + 1)]);
                }
                while (0 < machine.alive) {
                    bool has_moved = false;
                    for (unsigned i : order) {
                        Fiber &fiber = machine.fibers[i];
                        if (fiber.is_done || (fiber.waits_for && *fiber.waits_for == fiber.generation)) continue;
                        fiber.waits_for = nullptr;
                        resume(fiber);
                        has_moved = true;
                    }
                    if (!has_moved) give_up("threads wait for others that don't come");
                }
            }
}

inline void __syncthreads() {
    if (++machine.arrived == (int)machine.block_size.x) {
        machine.arrived = 0;
        machine.generation++;
    } else {
        wait_for(&machine.generation);
    }
}

// Takes part in an operation of the warp. The last one to come carries it out for all.
template <class Operation> inline Lane &together(const void *where, const Lane &brought, Operation operation) {
    unsigned thread = machine.current->thread.x;
    Warp &warp = machine.warps[thread / 32];
    Lane &own = warp.lanes[thread % 32];
    own = brought;
    own.where = where;
    if (++warp.arrived == 32) {
        for (Lane &lane : warp.lanes)
            if (lane.where != where) give_up("the lanes of a warp are at different operations");
        operation(warp.lanes);
        warp.arrived = 0;
        warp.generation++;
    } else {
        wait_for(&warp.generation);
    }
    return own;
}

template <class T, class Source> inline T shuffle(const void *where, unsigned mask, T value, Source source) {
    if (mask != 0xffffffffu) give_up("a shuffle is not for all lanes");
    static_assert(sizeof(T) <= 8, "a shuffle takes up to 8 bytes");
    Lane brought = {};
    memcpy(&brought.value, &value, sizeof value);
    Lane &own = together(where, brought, [&](Lane *lanes) {
        for (int i = 0; i < 32; i++) {
            int from = source(i);
            lanes[i].result = lanes[from < 0 || 31 < from ? i : from].value;
        }
    });
    T result;
    memcpy(&result, &own.result, sizeof result);
    return result;
}

inline char xor_, up_, to_, multiply_;

template <class T> inline T __shfl_xor_sync(unsigned mask, T value, int apart) {
    return shuffle(&xor_, mask, value, [=](int lane) { return lane ^ apart; });
}
template <class T> inline T __shfl_up_sync(unsigned mask, T value, int apart) {
    return shuffle(&up_, mask, value, [=](int lane) { return lane - apart; });
}
template <class T> inline T __shfl_sync(unsigned mask, T value, int from) {
    return shuffle(&to_, mask, value, [=](int) { return from; });
}

// Threads change places only where they wait, so that nothing comes between.
template <class T, class U> inline T atomicAdd(T *to, U value) {
    T before = *to;
    *to += value;
    return before;
}

inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float __uint_as_float(unsigned bits) { float out; memcpy(&out, &bits, 4); return out; }
inline float __int_as_float(int bits) { return __uint_as_float((unsigned)bits); }
inline unsigned __float_as_uint(float value) { unsigned out; memcpy(&out, &value, 4); return out; }
// Rounded at once: what is volatile isn't made one operation with the next.
inline float __fmul_rn(float a, float b) { volatile float out = a * b; return out; }
inline float __fadd_rn(float a, float b) { volatile float out = a + b; return out; }
inline float __fsub_rn(float a, float b) { volatile float out = a - b; return out; }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)(((unsigned __int128)a * b) >> 64);
}

// What kernels.cu has in its first part.

typedef unsigned short Half;

#if HALF_IS_F16
inline float widen(Half bits) { _Float16 half; memcpy(&half, &bits, 2); return (float)half; }
inline Half narrow(float value) { _Float16 half = (_Float16)value; Half out; memcpy(&out, &half, 2); return out; }
#else
inline float widen(Half bits) { return __uint_as_float((unsigned)bits << 16); }
inline Half narrow(float value) {
    unsigned bits = __float_as_uint(value);
    if (value != value) return 0x7fff;
    // To the nearest, and halfway to the even one.
    return (Half)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
#endif

inline unsigned pack(float first, float second) { return narrow(first) | (unsigned)narrow(second) << 16; }

template <class T> inline T load(const void *from) {
    if ((uintptr_t)from % sizeof(T) != 0) give_up("several numbers are read from an address that isn't aligned");
    T out;
    memcpy(&out, from, sizeof out);
    return out;
}
template <class T> inline void store(void *to, T value) {
    if ((uintptr_t)to % sizeof(T) != 0) give_up("several numbers are written to an address that isn't aligned");
    memcpy(to, &value, sizeof value);
}
inline uint4 load8(const Half *from) { return load<uint4>(from); }
inline uint2 load4(const Half *from) { return load<uint2>(from); }
inline float4 load4(const float *from) { return load<float4>(from); }
inline void store4(Half *to, uint2 four) { store(to, four); }
inline void store4(float *to, float4 four) { store(to, four); }

// The layout of PTX's mma.m16n8k16, element by element as its manual has it.
inline void multiply(float (&sum)[4], const unsigned (&left)[4], unsigned right0, unsigned right1) {
    Lane brought = {};
    brought.sum = sum, brought.left = left, brought.right[0] = right0, brought.right[1] = right1;
    together(&multiply_, brought, [](Lane *lanes) {
        float a[16][16], b[16][8];
        for (int lane = 0; lane < 32; lane++) {
            int group = lane >> 2, within = lane & 3;
            for (int i = 0; i < 8; i++) {
                int row = (0 <= i && i < 2) || (4 <= i && i < 6) ? group : group + 8;
                int column = within * 2 + (i & 1) + (4 <= i ? 8 : 0);
                a[row][column] = widen((Half)(lanes[lane].left[i / 2] >> (i % 2 * 16)));
            }
            for (int i = 0; i < 4; i++) {
                int row = within * 2 + (i & 1) + (2 <= i ? 8 : 0);
                b[row][group] = widen((Half)(lanes[lane].right[i / 2] >> (i % 2 * 16)));
            }
        }
        for (int lane = 0; lane < 32; lane++)
            for (int i = 0; i < 4; i++) {
                int row = i < 2 ? lane >> 2 : (lane >> 2) + 8, column = (lane & 3) * 2 + (i & 1);
                float total = lanes[lane].sum[i];
                for (int k = 0; k < 16; k++) total += a[row][k] * b[k][column];
                lanes[lane].sum[i] = total;
            }
    });
}
