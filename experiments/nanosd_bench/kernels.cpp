// Blocks of a small Stable Diffusion U-Net for 16 samples at a time, on one core.
//
// Every tensor is [channel][pixel][sample]: the 16 samples are one vector register, so that each operation is the
// scalar one of the textbook with vectors for numbers, weights are scalars, and taps of a convolution that fall outside
// of the picture are left out instead of multiplied by zero. Feature maps of the toy teacher (8x8, 4x4, 2x2) then stay
// in the processor's nearest caches. Widths are 8, 4 or 2; channels are multiples of 8.
//
// Weights are packed by kernels.py: convolutions [out / T][in][tap][T], T = 16 / width; 1x1 [out / 4][in][4].

#include <cmath>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

typedef float V __attribute__((vector_size(64)));
typedef int VI __attribute__((vector_size(64)));

static const int SCRATCH = 1 << 18;
alignas(64) static float scratch[6][SCRATCH];

static inline V larger(V a, V b) {
#ifdef __AVX512F__
    return (V)_mm512_max_ps((__m512)a, (__m512)b);
#else
    return a > b ? a : b;
#endif
}

static inline V inverse(V x) {  // for 1 <= x < 1e37: an estimate of 14 bits and one step of Newton's method
#ifdef __AVX512F__
    V y = (V)_mm512_rcp14_ps((__m512)x);
    return y * (2.0f - x * y);
#else
    return 1.0f / x;
#endif
}

static inline V exp_(V x) {  // Cephes expf: two units in the last place
    x = larger(x, V{} - 87.0f);
    x = -larger(-x, V{} - 85.0f);
    V n = (x * 1.44269504088896341f + 12582912.0f) - 12582912.0f;
    V r = x - n * 0.693359375f + n * 2.12194440e-4f;
    V y = V{} + 1.9875691500e-4f;
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    VI i = (__builtin_convertvector(n, VI) + 127) << 23;
    return y * (V)i;
}

static inline V silu_(V x) { return x * inverse(1.0f + exp_(-x)); }

static inline V gelu_(V x) {  // the error function by Abramowitz and Stegun 7.1.26, absolute error 1.5e-7
    V z = x * 0.70710678118654752f;
    V a = larger(z, -z);
    V t = inverse(1.0f + 0.3275911f * a);
    V p = ((((1.061405429f * t - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t + 0.254829592f) * t;
    V e = 1.0f - p * exp_(-a * a);
    return 0.5f * x * (1.0f + (z < 0.0f ? -e : e));
}

static inline V sqrt_(V x) {
    for (int i = 0; i < 16; i++) x[i] = std::sqrt(x[i]);
    return x;
}

// 3x3, padding 1. bias: [out][16]; add: what is added to the result, or null.
template <int W, int T>
static void conv3(const V* in, V* out, const float* w, int ci, int co, const V* bias, const V* add) {
    for (int o = 0; o < co / T; o++)
        for (int y = 0; y < W; y++) {
            V acc[T][W];
#pragma GCC unroll 16
            for (int k = 0; k < T; k++)
#pragma GCC unroll 16
                for (int x = 0; x < W; x++) acc[k][x] = bias[o * T + k];
            for (int c = 0; c < ci; c++) {
                const float* wc = w + (o * ci + c) * 9 * T;
                for (int ky = (y == 0); ky < 3 - (y == W - 1); ky++) {
                    const V* row = in + (c * W + y + ky - 1) * W;
#pragma GCC unroll 3
                    for (int kx = 0; kx < 3; kx++) {
                        const float* wk = wc + (ky * 3 + kx) * T;
#pragma GCC unroll 16
                        for (int x = 0; x < W; x++) {
                            if (x + kx - 1 < 0 || x + kx - 1 >= W) continue;
                            V v = row[x + kx - 1];
#pragma GCC unroll 16
                            for (int k = 0; k < T; k++) acc[k][x] += v * wk[k];
                        }
                    }
                }
            }
#pragma GCC unroll 16
            for (int k = 0; k < T; k++)
#pragma GCC unroll 16
                for (int x = 0; x < W; x++) {
                    int at = ((o * T + k) * W + y) * W + x;
                    out[at] = add ? acc[k][x] + add[at] : acc[k][x];
                }
        }
}

static void conv3_any(int width, const V* in, V* out, const float* w, int ci, int co, const V* bias, const V* add) {
    if (width == 8) conv3<8, 2>(in, out, w, ci, co, bias, add);
    else if (width == 4) conv3<4, 4>(in, out, w, ci, co, bias, add);
    else conv3<2, 8>(in, out, w, ci, co, bias, add);
}

// 3x3, padding 1, stride 2, from width 2 W to W; weights packed for the width of the output.
template <int W, int T>
static void conv3_down(const V* in, V* out, const float* w, int ci, int co, const V* bias) {
    for (int o = 0; o < co / T; o++)
        for (int y = 0; y < W; y++) {
            V acc[T][W];
            for (int k = 0; k < T; k++)
                for (int x = 0; x < W; x++) acc[k][x] = bias[o * T + k];
            for (int c = 0; c < ci; c++)
                for (int ky = (y == 0); ky < 3; ky++)
                    for (int kx = 0; kx < 3; kx++) {
                        const V* row = in + (c * 2 * W + 2 * y + ky - 1) * 2 * W;
                        const float* wk = w + ((o * ci + c) * 9 + ky * 3 + kx) * T;
                        for (int x = (kx == 0); x < W; x++)
                            for (int k = 0; k < T; k++) acc[k][x] += row[2 * x + kx - 1] * wk[k];
                    }
            for (int k = 0; k < T; k++)
                for (int x = 0; x < W; x++) out[((o * T + k) * W + y) * W + x] = acc[k][x];
        }
}

// 1x1 convolution, or a linear layer on tokens. bias: [out] or null; add: as above.
static void conv1(int pixels, const V* in, V* out, const float* w, int ci, int co, const float* bias, const V* add) {
    for (int o = 0; o < co; o += 4)
        for (int p = 0; p < pixels; p += 4) {
            V acc[4][4];
#pragma GCC unroll 4
            for (int k = 0; k < 4; k++)
#pragma GCC unroll 4
                for (int x = 0; x < 4; x++) acc[k][x] = V{} + (bias ? bias[o + k] : 0.0f);
            const float* wc = w + o * ci;
            for (int c = 0; c < ci; c++, wc += 4) {
                const V* v = in + c * pixels + p;
#pragma GCC unroll 4
                for (int x = 0; x < 4; x++)
#pragma GCC unroll 4
                    for (int k = 0; k < 4; k++) acc[k][x] += v[x] * wc[k];
            }
#pragma GCC unroll 4
            for (int k = 0; k < 4; k++)
#pragma GCC unroll 4
                for (int x = 0; x < 4; x++) {
                    int at = (o + k) * pixels + p + x;
                    out[at] = add ? acc[k][x] + add[at] : acc[k][x];
                }
        }
}

static void group_norm(int pixels, const V* in, V* out, const float* w, const float* b, int channels, int groups, float eps,
                       bool silu) {
    int each = channels / groups, count = each * pixels;
    for (int g = 0; g < groups; g++) {
        const V* x = in + g * count;
        V sum{}, square{};
        for (int i = 0; i < count; i++) sum += x[i];
        V mean = sum / (float)count;
        for (int i = 0; i < count; i++) {
            V d = x[i] - mean;
            square += d * d;
        }
        V scale = 1.0f / sqrt_(square / (float)count + eps);
        for (int c = 0; c < each; c++) {
            V s = scale * w[g * each + c];
            V t = b[g * each + c] - mean * s;
            for (int p = 0; p < pixels; p++) {
                int i = c * pixels + p;
                V y = x[i] * s + t;
                out[g * count + i] = silu ? silu_(y) : y;
            }
        }
    }
}

static void layer_norm(int pixels, const V* in, V* out, const float* w, const float* b, int channels) {
    for (int p = 0; p < pixels; p++) {
        V sum{}, square{};
        for (int c = 0; c < channels; c++) sum += in[c * pixels + p];
        V mean = sum / (float)channels;
        for (int c = 0; c < channels; c++) {
            V d = in[c * pixels + p] - mean;
            square += d * d;
        }
        V scale = 1.0f / sqrt_(square / (float)channels + 1e-5f);
        for (int c = 0; c < channels; c++) out[c * pixels + p] = (in[c * pixels + p] - mean) * scale * w[c] + b[c];
    }
}

// q, out: [heads * d][pixels]; k, v: [heads * d][tokens]
template <int D>
static void attend(int pixels, int tokens, const V* q, const V* k, const V* v, V* out, int heads) {
    const float scale = 1.0f / std::sqrt((float)D);
    V score[2][64];
    for (int h = 0; h < heads; h++) {
        const V *kh = k + h * D * tokens, *vh = v + h * D * tokens;
        for (int p = 0; p < pixels; p += 2) {  // two at a time: the processor waits less for its own results
            V own[2][D], most[2], sum[2];
            for (int i = 0; i < 2; i++) {
                for (int d = 0; d < D; d++) own[i][d] = q[(h * D + d) * pixels + p + i] * scale;
                most[i] = V{} - 3e38f;
                sum[i] = V{};
            }
            for (int t = 0; t < tokens; t++) {
                V a{}, b{};
#pragma GCC unroll 16
                for (int d = 0; d < D; d++) {
                    V key = kh[d * tokens + t];
                    a += own[0][d] * key;
                    b += own[1][d] * key;
                }
                score[0][t] = a;
                score[1][t] = b;
                most[0] = larger(a, most[0]);
                most[1] = larger(b, most[1]);
            }
            for (int t = 0; t < tokens; t++)
#pragma GCC unroll 2
                for (int i = 0; i < 2; i++) {
                    V e = exp_(score[i][t] - most[i]);
                    score[i][t] = e;
                    sum[i] += e;
                }
            for (int d = 0; d < D; d += 4) {
                V found[2][4] = {};
                const V* vd = vh + d * tokens;
                for (int t = 0; t < tokens; t++)
#pragma GCC unroll 4
                    for (int k = 0; k < 4; k++) {
                        V value = vd[k * tokens + t];
                        found[0][k] += score[0][t] * value;
                        found[1][k] += score[1][t] * value;
                    }
                for (int i = 0; i < 2; i++)
                    for (int k = 0; k < 4; k++) out[(h * D + d + k) * pixels + p + i] = found[i][k] / sum[i];
            }
        }
    }
}

static void attend_any(int pixels, int tokens, const V* q, const V* k, const V* v, V* out, int heads, int d) {
    if (d == 4) attend<4>(pixels, tokens, q, k, v, out, heads);
    else if (d == 8) attend<8>(pixels, tokens, q, k, v, out, heads);
    else attend<16>(pixels, tokens, q, k, v, out, heads);
}

extern "C" {

// p: norm1 w b, conv1, norm2 w b, conv2, conv2's bias [out][16], shortcut w b (or null); time: [out][16], conv1's bias in it
void residual(int width, const V* in, V* out, int ci, int co, int groups, float eps, const V* time, const float** p) {
    int pixels = width * width;
    V *a = (V*)scratch[0], *b = (V*)scratch[1], *s = (V*)scratch[2];
    group_norm(pixels, in, a, p[0], p[1], ci, groups, eps, true);
    conv3_any(width, a, b, p[2], ci, co, time, nullptr);
    group_norm(pixels, b, a, p[3], p[4], co, groups, eps, true);
    const V* shortcut = in;
    if (p[7]) {
        conv1(pixels, in, s, p[7], ci, co, p[8], nullptr);
        shortcut = s;
    }
    conv3_any(width, a, out, p[5], co, co, (const V*)p[6], shortcut);
}

// Up to and with self-attention. p: norm w b, proj_in w b, norm1 w b, q, k, v, out w b
void transformer_first(int width, const V* in, V* out, int c, int groups, int heads, const float** p) {
    int pixels = width * width;
    V *a = (V*)scratch[0], *x = (V*)scratch[1], *q = (V*)scratch[2], *k = (V*)scratch[3], *v = (V*)scratch[4];
    group_norm(pixels, in, a, p[0], p[1], c, groups, 1e-6f, false);
    conv1(pixels, a, x, p[2], c, c, p[3], nullptr);
    layer_norm(pixels, x, a, p[4], p[5], c);
    conv1(pixels, a, q, p[6], c, c, nullptr, nullptr);
    conv1(pixels, a, k, p[7], c, c, nullptr, nullptr);
    conv1(pixels, a, v, p[8], c, c, nullptr, nullptr);
    attend_any(pixels, pixels, q, k, v, a, heads, c / heads);
    conv1(pixels, a, out, p[9], c, c, p[10], x);
}

// From cross-attention on; h: what entered the block. k, v: [c][tokens].
// p: norm2 w b, q, out w b, norm3 w b, feed-forward in w b, out w b, proj_out w b
void transformer_second(int width, const V* x, const V* h, V* out, int c, int heads, int tokens, const V* k, const V* v,
                        const float** p) {
    int pixels = width * width, inner = 4 * c;
    V *a = (V*)scratch[0], *q = (V*)scratch[1], *y = (V*)scratch[2], *f = (V*)scratch[3];
    layer_norm(pixels, x, a, p[0], p[1], c);
    conv1(pixels, a, q, p[2], c, c, nullptr, nullptr);
    attend_any(pixels, tokens, q, k, v, a, heads, c / heads);
    conv1(pixels, a, y, p[3], c, c, p[4], x);
    layer_norm(pixels, y, a, p[5], p[6], c);
    conv1(pixels, a, f, p[7], c, 2 * inner, p[8], nullptr);
    for (int i = 0; i < inner * pixels; i++) f[i] *= gelu_(f[inner * pixels + i]);
    conv1(pixels, f, q, p[9], inner, c, p[10], y);
    conv1(pixels, q, out, p[11], c, c, p[12], h);
}

// 3x3 convolution; step -1: to half the width, 0: as it is, 1: of the nearest neighbours at double width.
void convolution(int width, int step, const V* in, V* out, int ci, int co, const V* bias, const float* w) {
    if (step == 0) {
        conv3_any(width, in, out, w, ci, co, bias, nullptr);
    } else if (step < 0) {
        if (width == 8) conv3_down<4, 4>(in, out, w, ci, co, bias);
        else conv3_down<2, 8>(in, out, w, ci, co, bias);
    } else {
        V* a = (V*)scratch[0];
        int wide = 2 * width;
        for (int c = 0; c < ci; c++)
            for (int y = 0; y < wide; y++)
                for (int x = 0; x < wide; x++)
                    a[(c * wide + y) * wide + x] = in[(c * width + y / 2) * width + x / 2];
        conv3_any(wide, a, out, w, ci, co, bias, nullptr);
    }
}

void norm_silu(int width, const V* in, V* out, int c, int groups, float eps, const float* w, const float* b) {
    group_norm(width * width, in, out, w, b, c, groups, eps, true);
}
}
