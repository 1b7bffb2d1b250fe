// What a processor with AVX-512 can do at most in the loops that decide about qdq's speed; `limits.py` times them.
//
// Only what has to be done is done: elements are finite, counts divide evenly, nothing is checked. Additions in the order
// of `docs/exactness.md`, so that the sums can be compared with qdq's bit for bit.

#define _GNU_SOURCE
#include <float.h>
#include <immintrin.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

enum { LANES = 16, RUN = 256, CHUNK = 65536, COLUMNS = 4096, SUMS = 7, PATTERNS = 65536 };
enum write { NOWHERE, CACHED, PAST_THE_CACHES };
#define INLINE static inline __attribute__((always_inline))

struct sums {
    __m512 run[5]; // error, |error|, and the squares of error, input and output
    __m512d total[5][2];
    __m512 peak;
    long zeroed;
};

// Quantize and dequantize sixteen elements and add them. vrangeps keeps the larger magnitude in one operation.
INLINE void add_lanes(struct sums *s, const float *x, float *y, __m512 scale, __m512 inverse, enum write write) {
    __m512 v = _mm512_loadu_ps(x), zero = _mm512_setzero_ps();
    __m512 w = _mm512_mul_ps(_mm512_roundscale_ps(_mm512_mul_ps(v, scale), _MM_FROUND_TO_NEAREST_INT), inverse);
    if (write == CACHED) _mm512_storeu_ps(y, w);
    if (write == PAST_THE_CACHES) _mm512_stream_ps(y, w);
    __m512 e = _mm512_sub_ps(w, v);
    __mmask16 zeroed = _mm512_mask_cmp_ps_mask(_mm512_cmp_ps_mask(v, zero, _CMP_NEQ_UQ), w, zero, _CMP_EQ_OQ);
    s->zeroed += __builtin_popcount(zeroed);
    s->peak = _mm512_range_ps(e, s->peak, 11);
    s->run[0] = _mm512_add_ps(s->run[0], e);
    s->run[1] = _mm512_add_ps(s->run[1], _mm512_abs_ps(e));
    s->run[2] = _mm512_add_ps(s->run[2], _mm512_mul_ps(e, e));
    s->run[3] = _mm512_add_ps(s->run[3], _mm512_mul_ps(v, v));
    s->run[4] = _mm512_add_ps(s->run[4], _mm512_mul_ps(w, w));
}

// Widen the sums of a run and begin another.
INLINE void end_run(struct sums *s) {
    for (int k = 0; k < 5; k++) {
        __m256 near = _mm512_castps512_ps256(s->run[k]), far = _mm512_extractf32x8_ps(s->run[k], 1);
        s->total[k][0] = _mm512_add_pd(s->total[k][0], _mm512_cvtps_pd(near));
        s->total[k][1] = _mm512_add_pd(s->total[k][1], _mm512_cvtps_pd(far));
        s->run[k] = _mm512_setzero_ps();
    }
}

// The sixteen lanes of a sum: k and k + 8, k and k + 4, k and k + 2, k and k + 1.
INLINE double tree(const __m512d lanes[2]) {
    __m512d eight = _mm512_add_pd(lanes[0], lanes[1]);
    __m256d four = _mm256_add_pd(_mm512_castpd512_pd256(eight), _mm512_extractf64x4_pd(eight, 1));
    __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return two[0] + two[1];
}

INLINE void finish(const struct sums *s, double out[SUMS]) {
    for (int k = 0; k < 5; k++) out[k] = tree(s->total[k]);
    out[5] = _mm512_reduce_max_ps(s->peak);
    out[6] = s->zeroed;
}

INLINE void one_range(const float *x, float *y, float scale, float inverse, enum write write, double out[SUMS]) {
    struct sums s = {0};
    for (long run = 0; run < CHUNK; run += RUN) {
        for (long i = run; i < run + RUN; i += LANES)
            add_lanes(&s, x + i, y + i, _mm512_set1_ps(scale), _mm512_set1_ps(inverse), write);
        end_run(&s);
    }
    finish(&s, out);
}

// The grid of a measured range, signed 8 bits.
INLINE void grid(float lo, float hi, float *scale, float *inverse) {
    float by_lo = lo < 0 ? -128 / lo : FLT_MAX, by_hi = hi > 0 ? 127 / hi : FLT_MAX;
    *scale = by_lo < by_hi ? by_lo : by_hi;
    *inverse = by_lo < by_hi ? lo / -128 : hi / 127;
}

// A range for each row, measured just before, while the cache has it.
INLINE void range_per_row(const float *x, float *y, enum write write, double out[SUMS]) {
    struct sums s = {0};
    for (long row = 0; row < CHUNK; row += COLUMNS) {
        __m512 lo[4], hi[4];
        for (int k = 0; k < 4; k++) lo[k] = hi[k] = _mm512_loadu_ps(x + row);
        for (long i = row; i < row + COLUMNS; i += 4 * LANES)
            for (int k = 0; k < 4; k++) {
                __m512 v = _mm512_loadu_ps(x + i + k * LANES);
                lo[k] = _mm512_min_ps(lo[k], v), hi[k] = _mm512_max_ps(hi[k], v);
            }
        __m512 least = _mm512_min_ps(_mm512_min_ps(lo[0], lo[1]), _mm512_min_ps(lo[2], lo[3]));
        __m512 greatest = _mm512_max_ps(_mm512_max_ps(hi[0], hi[1]), _mm512_max_ps(hi[2], hi[3]));
        float scale, inverse;
        grid(_mm512_reduce_min_ps(least), _mm512_reduce_max_ps(greatest), &scale, &inverse);
        for (long run = row; run < row + COLUMNS; run += RUN) {
            for (long i = run; i < run + RUN; i += LANES)
                add_lanes(&s, x + i, y + i, _mm512_set1_ps(scale), _mm512_set1_ps(inverse), write);
            end_run(&s);
        }
    }
    finish(&s, out);
}

// A range for each column, whose grids are known.
INLINE void range_per_column(
    const float *x, float *y, const float *scales, const float *inverses, enum write write, double out[SUMS]) {
    struct sums s = {0};
    for (long row = 0; row < CHUNK; row += COLUMNS)
        for (long run = 0; run < COLUMNS; run += RUN) {
            for (long c = run; c < run + RUN; c += LANES) {
                __m512 scale = _mm512_loadu_ps(scales + c), inverse = _mm512_loadu_ps(inverses + c);
                add_lanes(&s, x + row + c, y + row + c, scale, inverse, write);
            }
            end_run(&s);
        }
    finish(&s, out);
}

enum axis { NONE, FIRST, LAST };

// Op and statistics of `chunks` chunks, `step` elements apart: 0 for the same one again, from the cache.
// `scales` and `inverses` have one number, or one for each column.
void quantize_and_sum(
    const float *x, float *y, long chunks, long step, enum axis axis, const float *scales, const float *inverses,
    enum write write, double *out) {
#define EACH(write)                                                                             \
    for (long k = 0; k < chunks; k++, x += step, y += step, out += SUMS) {                      \
        if (axis == NONE) one_range(x, y, *scales, *inverses, write, out);                      \
        if (axis == FIRST) range_per_row(x, y, write, out);                                     \
        if (axis == LAST) range_per_column(x, y, scales, inverses, write, out);                 \
    }
    if (write == NOWHERE) EACH(NOWHERE)
    if (write == CACHED) EACH(CACHED)
    if (write == PAST_THE_CACHES) EACH(PAST_THE_CACHES)
    _mm_sfence();
}

// How often each pattern occurs among n words of four, in two tables in turn, added over `rounds`.
void count_patterns(const uint64_t *words, long n, long rounds, uint32_t *tables) {
    uint32_t *even = tables, *odd = tables + PATTERNS;
    while (rounds--)
        for (long i = 0; i < n; i++) {
            uint64_t word = words[i];
            even[word & 0xffff]++;
            odd[word >> 16 & 0xffff]++;
            even[word >> 32 & 0xffff]++;
            odd[word >> 48]++;
        }
}

// The same in four tables, which halves what waits for an earlier count, and doubles what the cache has to hold.
void count_in_four(const uint64_t *words, long n, long rounds, uint32_t *tables) {
    while (rounds--)
        for (long i = 0; i < n; i++)
            for (int k = 0; k < 4; k++) tables[k * PATTERNS + (words[i] >> 16 * k & 0xffff)]++;
}

// No counting at all, only its stores: what no way to count can beat that stores once per element.
void only_store(const uint64_t *words, long n, long rounds, uint32_t *tables) {
    while (rounds--)
        for (long i = 0; i < n; i++)
            for (int k = 0; k < 4; k++) tables[(k & 1) * PATTERNS + (words[i] >> 16 * k & 0xffff)] = (uint32_t)i;
}

// Counting with sixteen counters fetched, increased by one more than earlier equal lanes, and put back, at once.
void count_by_scatter(const uint64_t *words, long n, long rounds, uint32_t *tables) {
    while (rounds--)
        for (long i = 0; i < n; i += 4) {
            __m512i p = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(words + i)));
            __m512i more = _mm512_popcnt_epi32(_mm512_conflict_epi32(p));
            more = _mm512_add_epi32(more, _mm512_set1_epi32(1));
            _mm512_i32scatter_epi32(tables, p, _mm512_add_epi32(_mm512_i32gather_epi32(p, tables, 4), more), 4);
        }
}

// Quantize and dequantize BF16 elements, n a multiple of 16.
static void quantize_bfloat16(const uint16_t *x, uint16_t *y, long n, float scale, float inverse) {
    for (long i = 0; i < n; i += LANES) {
        __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(x + i)));
        __m512 p = _mm512_mul_ps(_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16)), _mm512_set1_ps(scale));
        __m512 w = _mm512_mul_ps(_mm512_roundscale_ps(p, _MM_FROUND_TO_NEAREST_INT), _mm512_set1_ps(inverse));
        __m512i bits = _mm512_castps_si512(w);
        __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
        bits = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        _mm256_storeu_si256((__m256i *)(y + i), _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16)));
    }
}

// Read a part of a file in strides, and count unless there are no tables. 0, or 1 where the file ends too early.
int read_file(int source, long offset, long size, char *buffer, long stride, uint32_t *tables) {
    for (long end = offset + size; offset < end; offset += stride) {
        if (pread(source, buffer, stride, offset) != stride) return 1;
        if (tables) count_patterns((uint64_t *)buffer, stride / 8, 1, tables);
    }
    return 0;
}

// Count without a copy, in pages of the page cache itself.
int map_file(int source, long offset, long size, long stride, uint32_t *tables) {
    for (long end = offset + size; offset < end; offset += stride) {
        void *pages = mmap(0, stride, PROT_READ, MAP_SHARED, source, offset);
        if (pages == MAP_FAILED) return 1;
        count_patterns(pages, stride / 8, 1, tables);
        munmap(pages, stride);
    }
    return 0;
}

// Read, quantize unless the scale is 0, and write over what another file has there. `buffer` is room for two strides.
int rewrite_file(int source, int sink, long offset, long size, char *buffer, long stride, float scale, float inverse) {
    char *out = scale ? buffer + stride : buffer;
    for (long end = offset + size; offset < end; offset += stride) {
        if (pread(source, buffer, stride, offset) != stride) return 1;
        if (scale) quantize_bfloat16((uint16_t *)buffer, (uint16_t *)out, stride / 2, scale, inverse);
        if (pwrite(sink, out, stride, offset) != stride) return 1;
    }
    return 0;
}
