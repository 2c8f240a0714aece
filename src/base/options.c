/* Options of another version than ours: what the program does not know has its default; what we do
 * not know must be 0, else the program asks for something that would not be done. */
#include "base/options.h"

#include <string.h>

/* No struct of options gets as large. What claims to be larger was never initialised, and is not
 * read. */
#define SIZE_LIMIT 1024

void ldg_options_init(const struct ldg_options *known, void *options, size_t size)
{
    if (!options || size < sizeof(size))
        return;
    memset(options, 0, size);
    memcpy(options, known->defaults, size < known->size ? size : known->size);
    memcpy(options, &size, sizeof(size));
}

ledger_rc ldg_options_take(const struct ldg_options *known, const void *options, void *ret_options,
                           ledger_error *err)
{
    size_t size = known->size;
    if (options)
        memcpy(&size, options, sizeof(size));
    if (size < known->least || size > SIZE_LIMIT || size % sizeof(size) != 0)
        return ldg_fail(err, LEDGER_ERR_INVALID,
                        "the size in %s is %zu, which it has in no version; call %s_defaults() "
                        "first, then set what differs",
                        known->name, size, known->name);
    for (size_t i = known->size; i < size; i++) {
        if (((const unsigned char *)options)[i] != 0)
            return ldg_fail(err, LEDGER_ERR_INVALID,
                            "%s sets an option that this version of the library does not know; "
                            "link a later one, leave the option at its default, or call "
                            "%s_defaults() first if that was forgotten",
                            known->name, known->name);
    }
    memcpy(ret_options, known->defaults, known->size);
    if (options)
        memcpy(ret_options, options, size < known->size ? size : known->size);
    memcpy(ret_options, &known->size, sizeof(known->size));
    return LEDGER_OK;
}
