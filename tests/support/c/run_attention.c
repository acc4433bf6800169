/* Runs one attention of an exported library on arrays from files, for tests.
 *
 *     run_attention NUMBER WORKERS OUTPUT QUERY KEY VALUE MASK KV_LENGTHS
 *
 * A file "-" is a NULL. Sizes are those of the files, also wrong ones. Prints the code and what it
 * means; writes the output if the code is 0. The workers take their turns in one thread. OUTPUT
 * must be there, and as large as the output. Every array ends at a page that must not be touched.
 */

#define _DEFAULT_SOURCE

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sys/mman.h>
#include <unistd.h>

#include "hocket_model.h"

/* Memory that ends where a page begins that nobody may touch. */
static unsigned char *reserve(size_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), room = (bytes + page - 1) / page * page;
    unsigned char *memory = mmap(NULL, room + page, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory + room, page, PROT_NONE) != 0)
        exit(100);
    memset(memory, 0xff, room);
    return memory + room - bytes;
}

static unsigned char *read_file(const char *path, size_t *bytes) {
    *bytes = 0;
    if (strcmp(path, "-") == 0)
        return NULL;
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0)
        exit(101);
    *bytes = (size_t)ftell(file);
    rewind(file);
    unsigned char *content = reserve(*bytes);
    if (fread(content, 1, *bytes, file) != *bytes)
        exit(102);
    fclose(file);
    return content;
}

int main(int count, char **words) {
    if (count != 9)
        return 103;
    int attention = atoi(words[1]), workers = atoi(words[2]);
    hocket_model_buffers buffers;
    buffers.query = read_file(words[4], &buffers.query_bytes);
    buffers.key = read_file(words[5], &buffers.key_bytes);
    buffers.value = read_file(words[6], &buffers.value_bytes);
    buffers.mask = read_file(words[7], &buffers.mask_bytes);
    buffers.kv_lengths = read_file(words[8], &buffers.kv_lengths_bytes);
    buffers.output = read_file(words[3], &buffers.output_bytes);
    buffers.scratch_bytes = hocket_model_scratch_bytes(attention, workers);
    buffers.scratch = reserve(buffers.scratch_bytes);
    int code = hocket_model_begin(attention, &buffers, workers);
    for (int worker = 0; worker < workers && code == HOCKET_MODEL_OK; worker++)
        code = hocket_model_work(attention, &buffers, workers, worker);
    printf("%d %s\n", code, hocket_model_message(code));
    if (code != HOCKET_MODEL_OK)
        return 0;
    FILE *file = fopen(words[3], "wb");
    if (file == NULL || fwrite(buffers.output, 1, buffers.output_bytes, file) !=
                            buffers.output_bytes)
        return 104;
    return fclose(file);
}
