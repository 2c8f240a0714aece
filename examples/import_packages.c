/* Imports Debian package lists into a ledger: the writer of `./dev demo`.
 *
 * import_packages STORE-URL [PER-TRANSACTION] < Packages
 *
 * One stream per section, one entry per package. The payload holds the package's fields as they are
 * in the list; tags come from Priority, Essential and Multi-Arch; packages that are large get their
 * home page and size as annotations after the append; essential ones are tagged again. At the end
 * some streams are trimmed to their last entries. So every kind of mutation is in the log.
 *
 * Invariant: a package's entry, tags and annotations commit together, and importing a list twice
 * adds nothing, since name, version and architecture are the dedup key. */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <ledger/ledger.h>

enum {
    MAX_FIELDS = 128, /* more than any package has */
    LARGE_KB = 2000,  /* Installed-Size from which a package is annotated */
    TRIM_KEEP = 100,  /* entries that a trimmed stream keeps */
    DEFAULT_PER_TRANSACTION = 200,
};

/* Sections whose history nobody needs. */
static const char *const trimmed_sections[] = { "oldlibs", "debug", "localization",
                                                "metapackages" };

struct field {
    char *name;
    char *value;
};

/* One paragraph of the list. */
struct package {
    struct field fields[MAX_FIELDS];
    size_t count;
};

struct counts {
    unsigned long long packages, duplicates, annotated, tagged, trimmed;
};

static void package_clear(struct package *package)
{
    for (size_t i = 0; i < package->count; i++) {
        free(package->fields[i].name);
        free(package->fields[i].value);
    }
    package->count = 0;
}

/* "" when the package has no such field. */
static const char *package_get(const struct package *package, const char *name)
{
    const char *value = "";
    for (size_t i = 0; i < package->count; i++) {
        if (strcmp(package->fields[i].name, name) == 0)
            value = package->fields[i].value;
    }
    return value;
}

/* Length of the UTF-8 sequence at s, or 0 when there is none. */
static size_t utf8_length(const unsigned char *s)
{
    size_t length = 0;
    unsigned long min = 0, code = 0;
    if (s[0] < 0x80)
        return 1;
    if (s[0] >= 0xC2 && s[0] < 0xE0)
        length = 2, min = 0x80, code = s[0] & 0x1FU;
    else if (s[0] >= 0xE0 && s[0] < 0xF0)
        length = 3, min = 0x800, code = s[0] & 0x0FU;
    else if (s[0] >= 0xF0 && s[0] < 0xF5)
        length = 4, min = 0x10000, code = s[0] & 0x07U;
    for (size_t i = 1; i < length; i++) {
        if ((s[i] & 0xC0) != 0x80) /* also stops at the NUL */
            return 0;
        code = code << 6 | (s[i] & 0x3FU);
    }
    if (length == 0 || code < min || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000))
        return 0;
    return length;
}

static void put_string(FILE *out, const char *text)
{
    const unsigned char *s = (const unsigned char *)text;
    fputc('"', out);
    while (*s != '\0') {
        size_t length = utf8_length(s);
        if (length == 0) {
            fputs("\xEF\xBF\xBD", out); /* U+FFFD for a byte that is not UTF-8 */
            length = 1;
        } else if (*s == '"' || *s == '\\') {
            fputc('\\', out);
            fputc(*s, out);
        } else if (*s == '\n') {
            fputs("\\n", out);
        } else if (*s < 0x20) {
            fprintf(out, "\\u%04x", *s);
        } else {
            fwrite(s, 1, length, out);
        }
        s += length;
    }
    fputc('"', out);
}

/* The fields as one JSON object; *ret_json is from malloc(). */
static bool package_to_json(const struct package *package, char **ret_json, size_t *ret_size)
{
    FILE *out = open_memstream(ret_json, ret_size);
    if (out == NULL)
        return false;
    fputc('{', out);
    for (size_t i = 0; i < package->count; i++) {
        fputs(i == 0 ? "" : ",", out);
        put_string(out, package->fields[i].name);
        fputc(':', out);
        put_string(out, package->fields[i].value);
    }
    fputc('}', out);
    return fclose(out) == 0;
}

/* Adds one line to the package: a field, or the continuation of the last one. */
static bool package_add_line(struct package *package, const char *line)
{
    const char *colon = strchr(line, ':');
    struct field *field;
    if (line[0] == ' ' || line[0] == '\t') {
        char *longer = NULL;
        if (package->count == 0)
            return true;
        field = &package->fields[package->count - 1];
        if (asprintf(&longer, "%s\n%s", field->value, line + 1) < 0)
            return false;
        free(field->value);
        field->value = longer;
        return true;
    }
    if (colon == NULL || package->count == MAX_FIELDS)
        return true; /* not a field: left out */
    field = &package->fields[package->count];
    field->name = strndup(line, (size_t)(colon - line));
    field->value = strdup(colon + 1 + strspn(colon + 1, " \t"));
    package->count++;
    return field->name != NULL && field->value != NULL;
}

/* Reads the next paragraph; false at the end of the input or without memory. */
static bool package_read(FILE *in, char **line, size_t *line_size, struct package *package)
{
    ssize_t size;
    bool ok = true;
    package_clear(package);
    while (ok && (size = getline(line, line_size, in)) >= 0) {
        if (size > 0 && (*line)[size - 1] == '\n')
            (*line)[--size] = '\0';
        if (size == 0 && package->count > 0)
            return true;
        if (size > 0)
            ok = package_add_line(package, *line);
    }
    return ok && package->count > 0;
}

/* Appends one package and what belongs to it. */
static ledger_rc import_package(ledger_store *store, const struct package *package,
                                struct counts *counts, ledger_error *err)
{
    const char *section = package_get(package, "Section");
    const char *name = package_get(package, "Package");
    const char *essential = package_get(package, "Essential");
    const char *sources[] = { "Priority", "Essential", "Multi-Arch" };
    char tag_text[3][128];
    const char *tags[4];
    size_t tag_count = 0;
    char key[1024];
    char *json = NULL;
    size_t json_size = 0;
    ledger_ids ids = { 0 };
    ledger_append_input input = { .order_key = name, .dedup_key = key };
    ledger_rc rc = LEDGER_OK;

    if (section[0] == '\0')
        section = "unknown";
    for (size_t i = 0; i < sizeof sources / sizeof sources[0]; i++) {
        const char *value = package_get(package, sources[i]);
        if (value[0] != '\0') {
            snprintf(tag_text[i], sizeof tag_text[i], "%s:%s", sources[i], value);
            tags[tag_count++] = tag_text[i];
        }
    }
    snprintf(key, sizeof key, "%s=%s/%s", name, package_get(package, "Version"),
             package_get(package, "Architecture"));
    if (!package_to_json(package, &json, &json_size)) {
        fprintf(stderr, "import_packages: out of memory\n");
        exit(75);
    }
    input.payload = (ledger_bytes){ json, json_size };
    input.tags = (ledger_list){ tags, tag_count };
    rc = ledger_store_append(store, section, &input, 1, &ids, err);
    if (rc == LEDGER_OK && ids.count == 0)
        counts->duplicates++;
    if (rc == LEDGER_OK && ids.count == 1) {
        const char *size_kb = package_get(package, "Installed-Size");
        counts->packages++;
        if (strtol(size_kb, NULL, 10) >= LARGE_KB) {
            ledger_pair pairs[] = { { "homepage", package_get(package, "Homepage") },
                                    { "installed_size_kb", size_kb } };
            rc = ledger_store_set_annotations(store, section, ids.items[0],
                                              (ledger_map){ pairs, 2 }, err);
            counts->annotated++;
        }
        if (rc == LEDGER_OK && strcmp(essential, "yes") == 0) {
            tags[tag_count++] = "keep";
            rc = ledger_store_set_tags(store, section, ids.items[0],
                                       (ledger_list){ tags, tag_count }, err);
            counts->tagged++;
        }
    }
    ledger_ids_destroy(&ids);
    free(json);
    return rc;
}

/* Deletes all but the last entries of a stream. */
static ledger_rc trim_stream(ledger_store *store, const char *stream, struct counts *counts,
                             ledger_error *err)
{
    ledger_read_options options;
    ledger_batch *batch = NULL;
    uint64_t deleted = 0;
    ledger_read_options_defaults(&options);
    options.descending = true;
    options.limit = TRIM_KEEP + 1;
    ledger_rc rc = ledger_store_read(store, stream, &options, &batch, err);
    if (rc == LEDGER_OK && ledger_batch_count(batch) == TRIM_KEEP + 1) {
        rc = ledger_store_trim(store, stream, ledger_batch_entry(batch, TRIM_KEEP)->id, &deleted,
                               err);
        counts->trimmed += deleted;
    }
    ledger_batch_destroy(&batch);
    return rc;
}

int main(int argc, char **argv)
{
    long per_transaction = argc > 2 ? strtol(argv[2], NULL, 10) : DEFAULT_PER_TRANSACTION;
    struct package package = { .count = 0 };
    struct counts counts = { 0 };
    char *line = NULL;
    size_t line_size = 0;
    long in_transaction = 0;
    bool shown = false;
    ledger_store_options options;
    ledger_store *store = NULL;
    ledger_error err = { 0 };
    ledger_rc rc;

    if (argc < 2 || argc > 3 || per_transaction < 1) {
        fprintf(stderr, "usage: %s STORE-URL [PACKAGES-PER-TRANSACTION] < Packages\n", argv[0]);
        return 2;
    }
    ledger_store_options_defaults(&options);
    options.url = argv[1];
    rc = ledger_store_open(&options, &store, &err);

    while (rc == LEDGER_OK && package_read(stdin, &line, &line_size, &package)) {
        if (package_get(&package, "Package")[0] == '\0')
            continue;
        if (in_transaction == 0)
            rc = ledger_store_begin(store, &err);
        if (rc == LEDGER_OK)
            rc = import_package(store, &package, &counts, &err);
        if (rc == LEDGER_OK && ++in_transaction >= per_transaction) {
            in_transaction = 0;
            rc = ledger_store_commit(store, &err);
        }
    }
    if (rc == LEDGER_OK && in_transaction > 0)
        rc = ledger_store_commit(store, &err);
    for (size_t i = 0; rc == LEDGER_OK && i < sizeof trimmed_sections / sizeof trimmed_sections[0];
         i++)
        rc = trim_stream(store, trimmed_sections[i], &counts, &err);

    if (rc == LEDGER_OK && ferror(stdin)) {
        fprintf(stderr, "import_packages: cannot read the list: %s\n", strerror(errno));
        shown = true;
    } else if (rc == LEDGER_OK) {
        printf("%llu packages, %llu known before, %llu annotated, %llu tagged again, "
               "%llu trimmed\n",
               counts.packages, counts.duplicates, counts.annotated, counts.tagged, counts.trimmed);
    } else {
        fprintf(stderr, "import_packages: %s\n", err.message);
    }
    package_clear(&package);
    free(line);
    ledger_store_close(&store); /* rolls an open transaction back */
    return shown ? 69 : ledger_rc_exit_code(rc);
}
