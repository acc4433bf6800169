/* What an export's functions look up: written anew for each, this is the form of it. */

#ifndef HOCKET_TABLES_H
#define HOCKET_TABLES_H

#include "hocket_model.h"

/* An array: 0 bytes for one that the attention does not have. */
struct operand {
    size_t bytes, element_bytes;
    int onnx_type;
};

@tables@

/* Return why kernels must not run here, NULL if they may. */
const char *hocket_model_refusal(void);

#endif
