"""The functions of a written C file, each there where the network calls it. Counts lie [H, W, C] in memory."""

SYNAPSE = """\
typedef struct {
    const int8_t *weight; /* [out_c][kernel_h][kernel_w][in_c / groups] */
    const int32_t *bias;  /* [out_c] or NULL */
    int in_h, in_w, in_c, out_h, out_w, out_c, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h,
        dilation_w, groups;
} synapse;

/* The sum of an output channel o at (y, x). */
static int32_t sum_of(const synapse *s, const uint8_t *in, int y, int x, int o)
{
    const int taps = s->in_c / s->groups, first = o / (s->out_c / s->groups) * taps;
    const int8_t *weight = s->weight + (size_t)o * (size_t)(s->kernel_h * s->kernel_w * taps);
    int32_t sum = s->bias ? s->bias[o] : 0;
    for (int r = 0; r < s->kernel_h; r++) {
        const int row = y * s->stride_h - s->pad_h + r * s->dilation_h;
        for (int q = 0; q < s->kernel_w; q++, weight += taps) {
            const int column = x * s->stride_w - s->pad_w + q * s->dilation_w;
            if (row < 0 || row >= s->in_h || column < 0 || column >= s->in_w)
                continue;
            const uint8_t *at = in + (size_t)(row * s->in_w + column) * (size_t)s->in_c + first;
            for (int c = 0; c < taps; c++)
                sum += (int32_t)at[c] * weight[c];
        }
    }
    return sum;
}
"""
POOL = """\
typedef struct {
    int in_h, in_w, channels, out_h, out_w, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h,
        dilation_w;
} window;
"""
FUNCTIONS = {
    "pixels": """\
/* Values [C][H][W] to the nearest of 256 counts, ties to even, with a border of pixels of value 0. */
static void pixels(const float *in, const float *low, const float *unit, int channels, int h, int w, int pad_h,
                   int pad_w, uint8_t *out)
{
    for (int y = -pad_h; y < h + pad_h; y++)
        for (int x = -pad_w; x < w + pad_w; x++)
            for (int c = 0; c < channels; c++) {
                const int inside = y >= 0 && y < h && x >= 0 && x < w;
                const float from_low = (inside ? in[(c * h + y) * w + x] : 0.0f) - low[c];
                const float value = from_low / unit[c];
                int count = 0;
                if (value >= 255.0f)
                    count = 255;
                else if (value > 0.0f) {
                    count = (int)value;
                    const float rest = value - (float)count;
                    if (rest > 0.5f || (rest == 0.5f && count % 2))
                        count++;
                }
                *out++ = (uint8_t)count;
            }
}
""",
    "fire": """\
/* Counts of the neurons behind a synapse; a branch is added first: counts times their worth, or currents. */
static void fire(const synapse *s, const uint8_t *in, const uint8_t *branch, const int32_t *worth,
                 const int32_t *currents_in, const int32_t *levels, int steps, uint8_t *out)
{
    size_t place = 0;
    for (int y = 0; y < s->out_h; y++)
        for (int x = 0; x < s->out_w; x++)
            for (int o = 0; o < s->out_c; o++, place++) {
                int32_t sum = sum_of(s, in, y, x, o);
                if (branch)
                    sum += (int32_t)branch[place] * worth[o];
                if (currents_in)
                    sum += currents_in[place];
                const int32_t *level = levels + (size_t)o * (size_t)steps;
                int count = 0;
                while (count < steps && sum >= level[count])
                    count++;
                out[place] = (uint8_t)count;
            }
}
""",
    "current": """\
/* Currents for another layer to add. */
static void current(const synapse *s, const uint8_t *in, int32_t *out)
{
    for (int y = 0; y < s->out_h; y++)
        for (int x = 0; x < s->out_w; x++)
            for (int o = 0; o < s->out_c; o++)
                *out++ = sum_of(s, in, y, x, o);
}
""",
    "values": """\
/* Values [C][H][W] of a synapse without neurons. */
static void values(const synapse *s, const uint8_t *in, const float *scale, float *out)
{
    for (int o = 0; o < s->out_c; o++)
        for (int y = 0; y < s->out_h; y++)
            for (int x = 0; x < s->out_w; x++)
                *out++ = (float)sum_of(s, in, y, x, o) * scale[o];
}
""",
    "rates": """\
/* Counts [H][W][C] to rates [C][H][W]. */
static void rates(const uint8_t *in, const float *worth, int channels, int area, float *out)
{
    for (int c = 0; c < channels; c++)
        for (int place = 0; place < area; place++)
            *out++ = (float)in[place * channels + c] * worth[c];
}
""",
    "average": """\
/* The mean of each window of values [C][H][W]. */
static void average(const float *in, int channels, int in_h, int in_w, int out_h, int out_w, int kernel_h, int kernel_w,
                    int stride_h, int stride_w, float *out)
{
    for (int c = 0; c < channels; c++)
        for (int y = 0; y < out_h; y++)
            for (int x = 0; x < out_w; x++) {
                float sum = 0.0f;
                for (int r = 0; r < kernel_h; r++)
                    for (int q = 0; q < kernel_w; q++)
                        sum += in[(c * in_h + y * stride_h + r) * in_w + x * stride_w + q];
                *out++ = sum / (float)(kernel_h * kernel_w);
            }
}
""",
    "dense": """\
/* A linear layer behind the last neurons. */
static void dense(const float *in, const float *weight, const float *bias, int inputs, int outputs, float *out)
{
    for (int o = 0; o < outputs; o++) {
        float sum = bias ? bias[o] : 0.0f;
        for (int k = 0; k < inputs; k++)
            sum += in[k] * weight[(size_t)o * (size_t)inputs + (size_t)k];
        out[o] = sum;
    }
}
""",
    "pool": """\
/* The largest count of each window, or the sum of its counts. */
static void pool(const window *p, int sums, const uint8_t *in, uint8_t *out)
{
    for (int y = 0; y < p->out_h; y++)
        for (int x = 0; x < p->out_w; x++)
            for (int c = 0; c < p->channels; c++) {
                int found = 0;
                for (int r = 0; r < p->kernel_h; r++)
                    for (int q = 0; q < p->kernel_w; q++) {
                        const int row = y * p->stride_h - p->pad_h + r * p->dilation_h;
                        const int column = x * p->stride_w - p->pad_w + q * p->dilation_w;
                        if (row < 0 || row >= p->in_h || column < 0 || column >= p->in_w)
                            continue;
                        const int count = in[(row * p->in_w + column) * p->channels + c];
                        found = sums ? found + count : count > found ? count : found;
                    }
                *out++ = (uint8_t)found;
            }
}
""",
    "place": """\
/* Pixels and channels of `in`, every step_h-th row and step_w-th column, laid into a larger block of counts. */
static void place(const uint8_t *in, int first_h, int step_h, int first_w, int step_w, int in_w, int in_c, int h, int w,
                  int to_h, int to_w, int to_c, int out_w, int out_c, uint8_t *out)
{
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++)
            for (int c = 0; c < in_c; c++)
                out[((y + to_h) * out_w + x + to_w) * out_c + c + to_c] =
                    in[((first_h + y * step_h) * in_w + first_w + x * step_w) * in_c + c];
}
""",
    "silence": """\
/* No counts. */
static void silence(uint8_t *out, int size)
{
    for (int place = 0; place < size; place++)
        out[place] = 0;
}
""",
}
