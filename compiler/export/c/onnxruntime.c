/* The attention of an exported model as an operator of onnxruntime: hocket::Attention.
 *
 * What is declared here of onnxruntime is what is used of its C API, by place: members of OrtApi
 * are only ever added at its end. The places are those of onnxruntime_c_api.h, where the comments
 * have the names.
 */

#include <stdlib.h>
#include <unistd.h>

#include "tables.h"

enum { ORT_FAIL = 1, ORT_INVALID_ARGUMENT = 2 };
enum { REQUIRED = 0, OPTIONAL = 1 };
/* ONNXTensorElementDataType; of an undefined type are inputs of several. */
enum { UNDEFINED = 0, INT64 = 7 };

typedef void OrtStatus;
typedef void OrtKernelContext;
typedef struct OrtCustomOp OrtCustomOp;

/* OrtApi, as the functions that it is made of; the last one used came with version 17. */
#define API_VERSION 17
typedef void (*const *OrtApi)(void);

typedef struct {
    OrtApi (*GetApi)(uint32_t version);
    const char *(*GetVersionString)(void);
} OrtApiBase;

typedef OrtStatus *(*CreateStatus)(int code, const char *message);                 /* 0 */
typedef OrtStatus *(*CreateCustomOpDomain)(const char *name, void **domain);       /* 26 */
typedef OrtStatus *(*CustomOpDomain_Add)(void *domain, const OrtCustomOp *op);     /* 27 */
typedef OrtStatus *(*AddCustomOpDomain)(void *options, void *domain);              /* 28 */
typedef OrtStatus *(*GetTensorMutableData)(void *value, void **data);              /* 51 */
typedef OrtStatus *(*GetTensorElementType)(const void *info, int *type);           /* 60 */
typedef OrtStatus *(*GetTensorShapeElementCount)(const void *info, size_t *count); /* 64 */
typedef OrtStatus *(*GetTensorTypeAndShape)(const void *value, void **info);       /* 65 */
typedef OrtStatus *(*KernelInfoGetAttribute_int64)(const void *info, const char *name,
                                                   int64_t *number);               /* 86 */
typedef OrtStatus *(*KernelContext_GetInputCount)(const void *context, size_t *);  /* 88 */
typedef OrtStatus *(*KernelContext_GetInput)(const void *context, size_t index,
                                             const void **value);                  /* 90 */
typedef OrtStatus *(*KernelContext_GetOutput)(void *context, size_t index, const int64_t *sizes,
                                              size_t rank, void **value);          /* 91 */
typedef void (*ReleaseTensorTypeAndShapeInfo)(void *info);                         /* 99 */
typedef OrtStatus *(*KernelContext_ParallelFor)(const void *context, void (*task)(void *, size_t),
                                                size_t count, size_t batches,
                                                void *data);                       /* 274 */

#define CALL(api, place, type) ((type)(api)[place])

/* Of version 16: what came later is not asked for. */
struct OrtCustomOp {
    uint32_t version;
    void *(*CreateKernel)(const OrtCustomOp *, OrtApi, const void *);
    const char *(*GetName)(const OrtCustomOp *);
    const char *(*GetExecutionProviderType)(const OrtCustomOp *);
    int (*GetInputType)(const OrtCustomOp *, size_t);
    size_t (*GetInputTypeCount)(const OrtCustomOp *);
    int (*GetOutputType)(const OrtCustomOp *, size_t);
    size_t (*GetOutputTypeCount)(const OrtCustomOp *);
    void (*KernelCompute)(void *, OrtKernelContext *);
    void (*KernelDestroy)(void *);
    int (*GetInputCharacteristic)(const OrtCustomOp *, size_t);
    int (*GetOutputCharacteristic)(const OrtCustomOp *, size_t);
    int (*GetInputMemoryType)(const OrtCustomOp *, size_t);
    int (*GetVariadicInputMinArity)(const OrtCustomOp *);
    int (*GetVariadicInputHomogeneity)(const OrtCustomOp *);
    int (*GetVariadicOutputMinArity)(const OrtCustomOp *);
    int (*GetVariadicOutputHomogeneity)(const OrtCustomOp *);
    OrtStatus *(*CreateKernelV2)(const OrtCustomOp *, OrtApi, const void *, void **);
    OrtStatus *(*KernelComputeV2)(void *, OrtKernelContext *);
};

/* An operator for a type of element: what a kernel computes in, its inputs tell. */
struct operator {
    OrtCustomOp op;
    int type;
};

struct kernel {
    OrtApi api;
    int attention;
};

struct run {
    const hocket_model_buffers *buffers;
    int attention, num_workers;
    int codes[MAX_TASKS];
};

static OrtStatus *fail(OrtApi api, int code, const char *message) {
    return CALL(api, 0, CreateStatus)(code, message);
}

static const char *get_name(const OrtCustomOp *op) {
    (void)op;
    return "Attention";
}

static const char *get_provider(const OrtCustomOp *op) {
    (void)op;
    return NULL; /* the CPU */
}

static int get_input_type(const OrtCustomOp *op, size_t index) {
    if (index < MASK_INPUT)
        return ((const struct operator *)op)->type;
    return index == MASK_INPUT ? UNDEFINED : INT64;
}

static int get_output_type(const OrtCustomOp *op, size_t index) {
    (void)index;
    return ((const struct operator *)op)->type;
}

static size_t get_num_inputs(const OrtCustomOp *op) {
    (void)op;
    return NUM_INPUTS;
}

static size_t get_num_outputs(const OrtCustomOp *op) {
    (void)op;
    return 1;
}

static int get_input_kind(const OrtCustomOp *op, size_t index) {
    (void)op;
    return index < MASK_INPUT ? REQUIRED : OPTIONAL;
}

static int get_output_kind(const OrtCustomOp *op, size_t index) {
    (void)op, (void)index;
    return REQUIRED;
}

static int get_memory(const OrtCustomOp *op, size_t index) {
    (void)op, (void)index;
    return 0; /* OrtMemTypeDefault */
}

static OrtStatus *create(const OrtCustomOp *op, OrtApi api, const void *info, void **kernel) {
    (void)op;
    int64_t attention;
    OrtStatus *status = CALL(api, 86, KernelInfoGetAttribute_int64)(info, "attention", &attention);
    if (status != NULL)
        return status;
    if (attention < 0 || attention >= NUM_ATTENTIONS)
        return fail(api, ORT_INVALID_ARGUMENT,
                    "hocket::Attention: this library has no such attention; it and the model are "
                    "not of one export");
    struct kernel *made = malloc(sizeof *made);
    if (made == NULL)
        return fail(api, ORT_FAIL, "hocket::Attention: no memory");
    made->api = api;
    made->attention = (int)attention;
    *kernel = made;
    return NULL;
}

static OrtStatus *get_operand(OrtApi api, void *context, size_t index,
                              const struct operand *wanted, const void **data) {
    const void *value = NULL;
    void *info, *found;
    size_t num_inputs, count;
    int type;
    OrtStatus *status = CALL(api, 88, KernelContext_GetInputCount)(context, &num_inputs);
    if (status == NULL && index < num_inputs)
        status = CALL(api, 90, KernelContext_GetInput)(context, index, &value);
    if (status != NULL || (value == NULL && wanted->bytes == 0))
        return status;
    if (value == NULL || wanted->bytes == 0)
        return fail(api, ORT_INVALID_ARGUMENT,
                    "hocket::Attention: a mask, or key lengths, where none, or none where some");
    if ((status = CALL(api, 65, GetTensorTypeAndShape)(value, &info)) != NULL)
        return status;
    status = CALL(api, 64, GetTensorShapeElementCount)(info, &count);
    if (status == NULL)
        status = CALL(api, 60, GetTensorElementType)(info, &type);
    CALL(api, 99, ReleaseTensorTypeAndShapeInfo)(info);
    if (status != NULL)
        return status;
    if (type != wanted->onnx_type || count != wanted->bytes / wanted->element_bytes)
        return fail(api, ORT_INVALID_ARGUMENT,
                    "hocket::Attention: an input has not the type and size that the model was "
                    "exported for; the export is for fixed sizes");
    status = CALL(api, 51, GetTensorMutableData)((void *)value, &found);
    if (status == NULL)
        *data = found;
    return status;
}

static void take_part(void *data, size_t worker) {
    struct run *run = data;
    run->codes[worker] =
        hocket_model_work(run->attention, run->buffers, run->num_workers, (int)worker);
}

static OrtStatus *compute(void *data, OrtKernelContext *context) {
    const struct kernel *kernel = data;
    OrtApi api = kernel->api;
    const struct attention *of = &attentions[kernel->attention];
    const struct operand *wanted[NUM_INPUTS] = {&of->query, &of->key, &of->value, &of->mask,
                                                &of->kv_lengths};
    const void *inputs[NUM_INPUTS] = {NULL};
    void *output_value, *output, *scratch;
    OrtStatus *status = NULL;
    for (size_t i = 0; i < NUM_INPUTS && status == NULL; i++)
        status = get_operand(api, context, i, wanted[i], &inputs[i]);
    if (status == NULL)
        status = CALL(api, 91, KernelContext_GetOutput)(context, 0, of->output_shape,
                                                        of->output_rank, &output_value);
    if (status == NULL)
        status = CALL(api, 51, GetTensorMutableData)(output_value, &output);
    if (status != NULL)
        return status;
    /* Onnxruntime does not say how many threads it has; those that are not there cost nothing. */
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    int num_workers = of->max_workers;
    if (cores >= 1 && cores < num_workers)
        num_workers = (int)cores;
    size_t scratch_bytes = hocket_model_scratch_bytes(kernel->attention, num_workers);
    if (posix_memalign(&scratch, HOCKET_MODEL_ALIGNMENT, scratch_bytes) != 0)
        return fail(api, ORT_FAIL, "hocket::Attention: no memory");
    hocket_model_buffers buffers = {
        .query = inputs[0],      .query_bytes = of->query.bytes,
        .key = inputs[1],        .key_bytes = of->key.bytes,
        .value = inputs[2],      .value_bytes = of->value.bytes,
        .mask = inputs[3],       .mask_bytes = of->mask.bytes,
        .kv_lengths = inputs[4], .kv_lengths_bytes = of->kv_lengths.bytes,
        .output = output,        .output_bytes = of->output.bytes,
        .scratch = scratch,      .scratch_bytes = scratch_bytes,
    };
    struct run run = {
        .buffers = &buffers, .attention = kernel->attention, .num_workers = num_workers};
    int code = hocket_model_begin(run.attention, &buffers, num_workers);
    if (code == HOCKET_MODEL_OK && num_workers == 1)
        take_part(&run, 0);
    else if (code == HOCKET_MODEL_OK)
        status = CALL(api, 274, KernelContext_ParallelFor)(context, take_part, (size_t)num_workers,
                                                           0, &run);
    free(scratch);
    for (int i = 0; i < num_workers && code == HOCKET_MODEL_OK; i++)
        code = run.codes[i];
    if (status == NULL && code != HOCKET_MODEL_OK)
        status = fail(api, ORT_FAIL, hocket_model_message(code));
    return status;
}

static struct operator operators[] = {OPERATORS};

HOCKET_MODEL_API OrtStatus *RegisterCustomOps(void *options, const OrtApiBase *base) {
    OrtApi api = base->GetApi(API_VERSION);
    void *domain;
    if (api == NULL)
        return fail(base->GetApi(1), ORT_FAIL,
                    "hocket::Attention wants onnxruntime 1.17 or a later one");
    if (hocket_model_refusal() != NULL)
        return fail(api, ORT_FAIL, hocket_model_refusal());
    OrtStatus *status = CALL(api, 26, CreateCustomOpDomain)("hocket", &domain);
    for (size_t i = 0; i < sizeof operators / sizeof *operators && status == NULL; i++) {
        OrtCustomOp *op = &operators[i].op;
        op->version = 16;
        op->GetName = get_name;
        op->GetExecutionProviderType = get_provider;
        op->GetInputType = get_input_type;
        op->GetInputTypeCount = get_num_inputs;
        op->GetOutputType = get_output_type;
        op->GetOutputTypeCount = get_num_outputs;
        op->KernelDestroy = free;
        op->GetInputCharacteristic = get_input_kind;
        op->GetOutputCharacteristic = get_output_kind;
        op->GetInputMemoryType = get_memory;
        op->CreateKernelV2 = create;
        op->KernelComputeV2 = compute;
        status = CALL(api, 27, CustomOpDomain_Add)(domain, op);
    }
    return status == NULL ? CALL(api, 28, AddCustomOpDomain)(options, domain) : status;
}
