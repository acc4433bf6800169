/* The functions of an exported library, around kernels compiled from Hocket's own.
 *
 * "tables.h" is written for each export: names, sizes, and the declarations of the kernels.
 */

#include "tables.h"

#include "cpu.h"

static const char *lacking;
static char refusal[160];

/* Found out once, at load: asking costs microseconds, in a virtual machine many. */
__attribute__((constructor)) static void look_at_cpu(void) {
    size_t length = 0;
    lacking = cpu_lacks();
    if (lacking == NULL)
        return;
    const char *parts[] = {"this library is for ", CPU, " and needs '", lacking,
                           "', which this CPU lacks; export the module for this CPU"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        for (const char *c = parts[i]; *c != '\0' && length + 1 < sizeof refusal; c++)
            refusal[length++] = *c;
}

const char *hocket_model_refusal(void) {
    return lacking == NULL ? NULL : refusal;
}

static int check_operand(const void *data, size_t bytes, const struct operand *wanted) {
    if (wanted->bytes == 0)
        return data == NULL ? HOCKET_MODEL_OK : HOCKET_MODEL_UNWANTED;
    if (data == NULL)
        return HOCKET_MODEL_MISSING;
    if (bytes != wanted->bytes)
        return HOCKET_MODEL_WRONG_SIZE;
    return (uintptr_t)data % wanted->element_bytes == 0 ? HOCKET_MODEL_OK : HOCKET_MODEL_MISALIGNED;
}

static size_t scratch_bytes(const struct attention *of, int num_workers) {
    return HOCKET_MODEL_ALIGNMENT + of->shared_bytes + (size_t)num_workers * of->worker_bytes;
}

static int check(int attention, const hocket_model_buffers *buffers, int num_workers) {
    if (lacking != NULL)
        return HOCKET_MODEL_WRONG_CPU;
    if (attention < 0 || attention >= NUM_ATTENTIONS || num_workers < 1 ||
        num_workers > HOCKET_MODEL_MAX_WORKERS)
        return HOCKET_MODEL_OUT_OF_RANGE;
    if (buffers == NULL || buffers->scratch == NULL)
        return HOCKET_MODEL_MISSING;
    const struct attention *of = &attentions[attention];
    const struct {
        const void *data;
        size_t bytes;
        const struct operand *wanted;
    } operands[] = {
        {buffers->query, buffers->query_bytes, &of->query},
        {buffers->key, buffers->key_bytes, &of->key},
        {buffers->value, buffers->value_bytes, &of->value},
        {buffers->mask, buffers->mask_bytes, &of->mask},
        {buffers->kv_lengths, buffers->kv_lengths_bytes, &of->kv_lengths},
        {buffers->output, buffers->output_bytes, &of->output},
    };
    for (size_t i = 0; i < sizeof operands / sizeof *operands; i++) {
        int code = check_operand(operands[i].data, operands[i].bytes, operands[i].wanted);
        if (code != HOCKET_MODEL_OK)
            return code;
    }
    if (buffers->scratch_bytes < scratch_bytes(of, num_workers))
        return HOCKET_MODEL_SCRATCH_TOO_SMALL;
    if ((uintptr_t)buffers->scratch % HOCKET_MODEL_ALIGNMENT != 0)
        return HOCKET_MODEL_MISALIGNED;
    return HOCKET_MODEL_OK;
}

size_t hocket_model_scratch_bytes(int attention, int num_workers) {
    if (attention < 0 || attention >= NUM_ATTENTIONS || num_workers < 1 ||
        num_workers > HOCKET_MODEL_MAX_WORKERS)
        return 0;
    return scratch_bytes(&attentions[attention], num_workers);
}

int hocket_model_begin(int attention, const hocket_model_buffers *buffers, int num_workers) {
    int code = check(attention, buffers, num_workers);
    /* The number of the next work item, on a cache line of its own, and the kernel's counters. */
    if (code == HOCKET_MODEL_OK)
        memset(buffers->scratch, 0, HOCKET_MODEL_ALIGNMENT + attentions[attention].counter_bytes);
    return code;
}

int hocket_model_work(int attention, const hocket_model_buffers *buffers, int num_workers, int worker) {
    int code = check(attention, buffers, num_workers);
    if (code != HOCKET_MODEL_OK)
        return code;
    if (worker < 0 || worker >= num_workers)
        return HOCKET_MODEL_OUT_OF_RANGE;
    const struct attention *of = &attentions[attention];
    const void *const addresses[NUM_OPERANDS] = {
        [QUERY] = buffers->query, [KEY] = buffers->key,
        [VALUE] = buffers->value, [MASK] = buffers->mask,
        [KV_LENGTHS] = buffers->kv_lengths, [OUTPUT] = buffers->output,
    };
    int64_t arguments[NUM_ARGUMENTS];
    for (int i = 0; i < NUM_OPERANDS; i++)
        arguments[i] = (int64_t)(uintptr_t)addresses[i];
    memcpy(arguments + NUM_OPERANDS, of->numbers, sizeof of->numbers);
    unsigned char *own = (unsigned char *)buffers->scratch + HOCKET_MODEL_ALIGNMENT + of->shared_bytes;
    void *returned = NULL, *raised = NULL;
    int status = of->kernel(&returned, &raised, (int64_t)(uintptr_t)arguments,
                            (int64_t)(uintptr_t)(own + (size_t)worker * of->worker_bytes),
                            (int64_t)(uintptr_t)buffers->scratch);
    return status == 0 ? HOCKET_MODEL_OK : HOCKET_MODEL_FAILED;
}

int hocket_model_attend(int attention, const hocket_model_buffers *buffers) {
    int code = hocket_model_begin(attention, buffers, 1);
    return code == HOCKET_MODEL_OK ? hocket_model_work(attention, buffers, 1, 0) : code;
}

const char *hocket_model_message(int code) {
    switch (code) {
    case HOCKET_MODEL_OK:
        return "done";
    case HOCKET_MODEL_WRONG_CPU:
        return lacking == NULL ? "this CPU has all that is needed" : refusal;
    case HOCKET_MODEL_OUT_OF_RANGE:
        return "there is no such attention, or worker, or there are too many workers";
    case HOCKET_MODEL_MISSING:
        return "a buffer is NULL that the attention needs";
    case HOCKET_MODEL_UNWANTED:
        return "a mask, or key lengths, were given to an attention that has none";
    case HOCKET_MODEL_WRONG_SIZE:
        return "a buffer does not have the bytes that the header names";
    case HOCKET_MODEL_MISALIGNED:
        return "a buffer is not aligned as the header says";
    case HOCKET_MODEL_SCRATCH_TOO_SMALL:
        return "the scratch memory is too small for so many workers";
    case HOCKET_MODEL_FAILED:
        return "the kernel gave up: this is a bug in Hocket";
    default:
        return "no code of this library";
    }
}
