/* A receiver of webhooks for tests, a program of its own so that whoever sends to it can be killed:
 *
 *   receiver FOLDER [--port N] [--count [--check]] [--times N] [--bodies]
 *            [--certificate FILE --key FILE [--client-ca FILE]]
 *
 * It listens on 127.0.0.1 and writes FOLDER/port once it does. Each request becomes a line of JSON
 * in FOLDER/requests before it is answered, and is checked: what is wrong with it is a line in
 * FOLDER/complaints, which begins with "signature:", "time:", "header:", "body:", "again:" (an id
 * came with other bytes) or "order:" (a later position of the stream came first).
 * FOLDER/secrets, one "whsec_…" a line, is what signatures are checked with; without it they are
 * not. FOLDER/script says how the next requests are answered, in lines of JSON: see receiver.h.
 *
 * --count is for benchmarks: one thread, no lines and no checks but counts in FOLDER/counters
 * (struct tst_receiver_counters), and with --times the moment at which the entry with source_id I
 * was read, in nanoseconds of CLOCK_MONOTONIC, at place I of FOLDER/times. With --check it reads
 * the JSON and checks the signature of each, as whoever does something with it would. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <inttypes.h>
#include <jansson.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "receiver.h"

#define BODY_MAX ((size_t)256 << 20)
#define TABLE_SLOTS 65536
#define TIME_TOLERANCE_S 300

static struct {
    const char *folder, *certificate, *key, *client_ca;
    int port;
    bool count, check, bodies;
    size_t times;
    pthread_mutex_t mutex; /* over all that follows */
    FILE *requests, *complaints;
    uint64_t number;
    json_t *script;
    struct tst_receiver_counters *counters;
    int64_t *read_ns;
} self = { .mutex = PTHREAD_MUTEX_INITIALIZER };

/* What is known of an id, or of a stream: the last position. */
struct known {
    struct known *next;
    char *name;
    unsigned char digest[32];
    char *key;
    int64_t position;
};
static struct known *ids[TABLE_SLOTS], *streams[TABLE_SLOTS];

/* One request, from its head to its end. */
struct request {
    char *body;
    size_t size, room;
    json_t *act; /* what the script says; NULL: it is answered with 200 */
    json_t *headers;
};

_Noreturn static void die(const char *text)
{
    fprintf(stderr, "receiver: %s\n", text);
    _exit(1);
}

static void *must(void *p)
{
    if (p == NULL)
        die("out of memory");
    return p;
}

static void path_of(char path[500], const char *name)
{
    snprintf(path, 500, "%s/%s", self.folder, name);
}

static struct known *look_up(struct known **table, const char *name, bool *ret_new)
{
    uint64_t hash = UINT64_C(14695981039346656037);
    struct known **slot;
    for (const char *p = name; *p != '\0'; p++)
        hash = (hash ^ (unsigned char)*p) * UINT64_C(1099511628211);
    slot = &table[hash % TABLE_SLOTS];
    while (*slot != NULL && strcmp((*slot)->name, name) != 0)
        slot = &(*slot)->next;
    *ret_new = *slot == NULL;
    if (*slot == NULL) {
        *slot = must(calloc(1, sizeof **slot));
        (*slot)->name = must(strdup(name));
    }
    return *slot;
}

/* --- checks ------------------------------------------------------------------------------------
 */

__attribute__((format(printf, 1, 2))) static void complain(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vfprintf(self.complaints, fmt, args);
    va_end(args);
    fputc('\n', self.complaints);
    fflush(self.complaints);
}

static const char *header(const struct request *request, const char *name)
{
    return json_string_value(json_object_get(request->headers, name));
}

/* Standard Webhooks: "v1," and the base64 of HMAC-SHA256 over id.timestamp.body. */
static bool is_signature(const struct request *request, const char *signature, const char *secret)
{
    unsigned char key[200], digest[EVP_MAX_MD_SIZE], text[100];
    const char *id = header(request, "webhook-id"), *moment = header(request, "webhook-timestamp");
    size_t base64 = strlen(secret), head = strlen(id) + strlen(moment) + 2, length;
    char *signed_text;
    unsigned int size = 0;
    int key_size;
    if (base64 > sizeof key || base64 % 4 != 0)
        die("a line of the secrets is not whsec_ and base64");
    key_size = EVP_DecodeBlock(key, (const unsigned char *)secret, (int)base64);
    if (key_size < 0)
        die("a line of the secrets is not whsec_ and base64");
    for (size_t i = base64; i > 0 && secret[i - 1] == '='; i--)
        key_size--;
    signed_text = must(malloc(head + request->size + 1));
    snprintf(signed_text, head + 1, "%s.%s.", id, moment);
    memcpy(signed_text + head, request->body, request->size);
    HMAC(EVP_sha256(), key, key_size, (unsigned char *)signed_text, head + request->size, digest,
         &size);
    free(signed_text);
    length = (size_t)EVP_EncodeBlock(text, digest, (int)size);
    return strncmp(signature, "v1,", 3) == 0 && strncmp(signature + 3, (char *)text, length) == 0 &&
           (signature[3 + length] == '\0' || signature[3 + length] == ' ');
}

/* One of the signatures has to be by one of the secrets. */
static void check_signature(const struct request *request)
{
    const char *all = header(request, "webhook-signature");
    char path[500], line[300];
    bool good = false, any = false;
    FILE *file;
    path_of(path, "secrets");
    file = fopen(path, "re");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        const char *secret = line;
        line[strcspn(line, "\r\n")] = '\0';
        if (strncmp(secret, "whsec_", 6) == 0)
            secret += 6;
        any = any || *secret != '\0';
        for (const char *one = all; one != NULL && *secret != '\0';) {
            good = good || is_signature(request, one, secret);
            one = strchr(one, ' ');
            one += one != NULL;
        }
    }
    if (file != NULL)
        fclose(file);
    if (any && !good)
        complain("signature: none of '%s' is right for %s", all != NULL ? all : "",
                 header(request, "webhook-id"));
}

/* "uuid:epoch:position…" */
static int64_t position_of(const char *id)
{
    const char *colon = strchr(id, ':');
    colon = colon != NULL ? strchr(colon + 1, ':') : NULL;
    return colon != NULL ? strtoll(colon + 1, NULL, 10) : -1;
}

static void check_again(const struct known *known, const struct request *request,
                        const unsigned char digest[32])
{
    if (memcmp(known->digest, digest, 32) != 0)
        complain("again: %s came with other bytes", known->name);
    if (strcmp(known->key, header(request, "idempotency-key")) != 0)
        complain("again: %s came with another Idempotency-Key", known->name);
}

static void check_order(const char *id, const char *stream)
{
    int64_t position = position_of(id);
    bool is_new;
    struct known *last;
    if (position < 0) {
        complain("header: webhook-id '%s' has no position", id);
        return;
    }
    last = look_up(streams, stream, &is_new);
    if (!is_new && position < last->position)
        complain("order: %s of stream %s came behind position %" PRId64, id, stream,
                 last->position);
    else
        last->position = position;
}

static void check(const struct request *request, const unsigned char digest[32], const char *stream)
{
    const char *id = header(request, "webhook-id"), *moment = header(request, "webhook-timestamp");
    const char *key = header(request, "idempotency-key");
    long long seconds = moment != NULL ? strtoll(moment, NULL, 10) : 0;
    struct known *known;
    bool is_new;
    if (id == NULL || moment == NULL || key == NULL) {
        complain("header: webhook-id, webhook-timestamp or Idempotency-Key is missing");
        return;
    }
    if (llabs(seconds - (long long)time(NULL)) > TIME_TOLERANCE_S)
        complain("time: %s is of %s", id, moment);
    check_signature(request);
    known = look_up(ids, id, &is_new);
    if (!is_new) {
        check_again(known, request, digest);
        return;
    }
    memcpy(known->digest, digest, 32);
    known->key = must(strdup(key));
    if (stream != NULL)
        check_order(id, stream);
    else
        complain("body: of %s is of no form that has a stream", id);
}

/* --- what is written down ----------------------------------------------------------------------
 */

static void add_id(json_t *entries, const json_t *entry)
{
    const json_t *id = json_object_get(entry, "source_id");
    if (id == NULL)
        id = json_object_get(entry, "id");
    if (id != NULL)
        json_array_append_new(entries, json_deep_copy(id));
}

/* Its ids of entries: of an object with entries, an event, or an array of events, in CloudEvents
 * perhaps. */
static void read_entries(const json_t *body, json_t *entries)
{
    const json_t *item;
    for (size_t i = 0; i < (json_is_array(body) ? json_array_size(body) : 1); i++) {
        const json_t *event = json_is_array(body) ? json_array_get(body, i) : body;
        size_t k;
        add_id(entries, json_object_get(event, "data"));
        json_array_foreach(json_object_get(event, "entries"), k, item) add_id(entries, item);
    }
}

/* The first text behind `key`, by looking for it: bodies hold numbers and texts that jansson does
 * not take. json_decref(); NULL: there is none. */
static json_t *find_text(const struct request *request, const char *key)
{
    const char *end = request->body + request->size, *start, *at;
    start = request->size > 0 ? memmem(request->body, request->size, key, strlen(key)) : NULL;
    if (start == NULL)
        return NULL;
    start += strlen(key);
    for (at = start + 1; at < end && *at != '"'; at++)
        at += *at == '\\';
    return at < end
               ? json_loadb(start, (size_t)(at + 1 - start), JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL)
               : NULL;
}

static void write_down(struct request *request, const char *method, const char *url, int status)
{
    unsigned char digest[32];
    char hex[65];
    json_t *entries = json_array(), *line, *stream = find_text(request, "\"stream\":");
    json_t *body = json_loadb(request->body, request->size, JSON_ALLOW_NUL, NULL);
    const char *act = json_string_value(json_object_get(request->act, "act"));
    read_entries(body, entries);
    if (stream == NULL)
        stream = find_text(request, "\"subject\":");
    EVP_Digest(request->body, request->size, digest, NULL, EVP_sha256(), NULL);
    for (size_t i = 0; i < 32; i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    (void)pthread_mutex_lock(&self.mutex);
    check(request, digest, json_string_value(stream));
    line =
        json_pack("{s:I, s:s, s:s, s:i, s:s, s:s, s:I, s:O*, s:O, s:O}", "n",
                  (json_int_t)++self.number, "method", method, "path", url, "status", status, "act",
                  act != NULL ? act : "", "sha256", hex, "size", (json_int_t)request->size,
                  "stream", stream, "entries", entries, "headers", request->headers);
    if (line == NULL)
        die("a request cannot be written down");
    if (self.bodies)
        json_object_set_new(line, "body", json_stringn(request->body, request->size));
    json_dumpf(line, self.requests, JSON_COMPACT);
    fputc('\n', self.requests);
    fflush(self.requests);
    (void)pthread_mutex_unlock(&self.mutex);
    json_decref(line);
    json_decref(entries);
    json_decref(stream);
    json_decref(body);
}

static void note_read(uint64_t id, const struct timespec *now)
{
    if (id < self.times)
        __atomic_store_n(&self.read_ns[id], now->tv_sec * INT64_C(1000000000) + now->tv_nsec,
                         __ATOMIC_RELEASE);
}

/* How many entries there are, by looking for their ids alone. */
static uint64_t count_quickly(const struct request *request, const struct timespec *now)
{
    static const char mark[] = "\"source_id\":\"";
    const char *at = request->body, *end = request->body + request->size;
    uint64_t entries = 0;
    while (at != NULL && (at = memmem(at, (size_t)(end - at), mark, sizeof mark - 1)) != NULL) {
        uint64_t id = 0;
        for (at += sizeof mark - 1; at < end && *at >= '0' && *at <= '9'; at++)
            id = id * 10 + (uint64_t)(*at - '0');
        note_read(id, now);
        entries++;
    }
    return entries;
}

/* The same of what is signed, and is JSON. */
static uint64_t count_checked(const struct request *request, const struct timespec *now)
{
    json_t *body = json_loadb(request->body, request->size, 0, NULL), *item;
    const json_t *entries = json_object_get(body, "entries");
    size_t count_of = json_array_size(entries), i;
    check_signature(request);
    json_array_foreach(entries, i, item)
    {
        const char *id = json_string_value(json_object_get(item, "source_id"));
        note_read(id != NULL ? strtoull(id, NULL, 10) : 0, now);
    }
    json_decref(body);
    return count_of;
}

static void count(const struct request *request)
{
    struct timespec now;
    uint64_t entries;
    clock_gettime(CLOCK_MONOTONIC, &now);
    entries = self.check ? count_checked(request, &now) : count_quickly(request, &now);
    __atomic_add_fetch(&self.counters->bytes, request->size, __ATOMIC_RELAXED);
    __atomic_add_fetch(&self.counters->requests, 1, __ATOMIC_RELAXED);
    __atomic_add_fetch(&self.counters->entries, entries, __ATOMIC_RELEASE);
}

/* --- the script --------------------------------------------------------------------------------
 */

static void load_script(void)
{
    char path[500], line[4096];
    FILE *file;
    path_of(path, "script");
    file = fopen(path, "re");
    if (file == NULL)
        return;
    unlink(path);
    json_decref(self.script);
    self.script = json_array();
    while (fgets(line, sizeof line, file) != NULL) {
        json_t *act = json_loads(line, 0, NULL);
        if (!json_is_string(json_object_get(act, "act")))
            die("a line of the script is no object with an act");
        json_array_append_new(self.script, act);
    }
    fclose(file);
}

static bool is_before(const json_t *act)
{
    return strcmp(json_string_value(json_object_get(act, "act")), "hang-up-before") == 0;
}

/* The first act that is meant for this request. before: only its head is here. */
static json_t *take_act(const struct request *request, bool before)
{
    json_t *act, *found = NULL;
    size_t i;
    (void)pthread_mutex_lock(&self.mutex);
    load_script();
    json_array_foreach(self.script, i, act)
    {
        const char *match = json_string_value(json_object_get(act, "match"));
        json_int_t times = json_integer_value(json_object_get(act, "times"));
        if (is_before(act) != before)
            continue;
        if (match != NULL && memmem(request->body != NULL ? request->body : "", request->size,
                                    match, strlen(match)) == NULL)
            continue;
        found = json_deep_copy(act);
        if (times == 0 && json_object_get(act, "times") != NULL)
            break; /* for ever */
        if (times <= 1)
            json_array_remove(self.script, i);
        else
            json_object_set_new(act, "times", json_integer(times - 1));
        break;
    }
    (void)pthread_mutex_unlock(&self.mutex);
    return found;
}

/* --- answers -----------------------------------------------------------------------------------
 */

struct stream_of_x {
    int64_t left; /* -1: without end */
    bool cut;     /* then the connection ends */
};

static ssize_t more_x(void *ctx, uint64_t pos, char *buf, size_t max)
{
    struct stream_of_x *x = ctx;
    if (x->left == 0)
        return x->cut ? MHD_CONTENT_READER_END_WITH_ERROR : MHD_CONTENT_READER_END_OF_STREAM;
    if (x->left > 0 && (uint64_t)x->left < max)
        max = (size_t)x->left;
    memset(buf, 'x', max);
    if (x->left > 0)
        x->left -= (int64_t)max;
    return (ssize_t)max;
}

static struct MHD_Response *long_answer(const json_t *act, bool cut)
{
    struct stream_of_x *x = must(calloc(1, sizeof *x));
    const json_t *bytes = json_object_get(act, "bytes");
    x->left = bytes != NULL ? json_integer_value(bytes) : cut ? 0 : -1;
    x->cut = cut;
    return MHD_create_response_from_callback(cut           ? (uint64_t)x->left + 1000
                                             : x->left < 0 ? MHD_SIZE_UNKNOWN
                                                           : (uint64_t)x->left,
                                             65536, more_x, x, free);
}

static enum MHD_Result answer(struct MHD_Connection *connection, const struct request *request,
                              int status)
{
    const char *act = json_string_value(json_object_get(request->act, "act"));
    const char *text = json_string_value(json_object_get(request->act, "text")), *name;
    struct MHD_Response *response;
    const json_t *value;
    enum MHD_Result rc;
    if (act != NULL && strcmp(act, "hang-up-after") == 0)
        return MHD_NO;
    if (act != NULL && strcmp(act, "slow") == 0)
        usleep((useconds_t)(1e6 * json_number_value(json_object_get(request->act, "seconds"))));
    if (act != NULL && (strcmp(act, "cut") == 0 || strcmp(act, "long") == 0)) {
        response = long_answer(request->act, act[0] == 'c');
    } else {
        text = text != NULL ? text : status < 300 ? "ok\n" : "";
        response = MHD_create_response_from_buffer(strlen(text), (void *)(uintptr_t)text,
                                                   MHD_RESPMEM_MUST_COPY);
    }
    if (response == NULL)
        return MHD_NO;
    json_object_foreach(json_object_get(request->act, "headers"), name, value)(void)
        MHD_add_response_header(response, name, json_string_value(value));
    rc = MHD_queue_response(connection, (unsigned int)status, response);
    MHD_destroy_response(response);
    return rc;
}

/* --- requests ----------------------------------------------------------------------------------
 */

static enum MHD_Result keep_header(void *ctx, enum MHD_ValueKind kind, const char *name,
                                   const char *value)
{
    char lower[200];
    size_t i;
    for (i = 0; name[i] != '\0' && i < sizeof lower - 1; i++)
        lower[i] = (char)(name[i] >= 'A' && name[i] <= 'Z' ? name[i] + 32 : name[i]);
    lower[i] = '\0';
    json_object_set_new(ctx, lower, json_string(value != NULL ? value : ""));
    return MHD_YES;
}

static bool take_body(struct request *request, const char *data, size_t size)
{
    if (request->size + size > BODY_MAX)
        return false;
    if (request->size + size + 1 > request->room) {
        request->room = 2 * (request->size + size) + 4096;
        request->body = must(realloc(request->body, request->room));
    }
    memcpy(request->body + request->size, data, size);
    request->size += size;
    return true;
}

/* With --client-ca: does the client show a certificate of that authority? */
static bool is_client_known(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info;
    unsigned int found = 0;
    if (self.client_ca == NULL)
        return true;
    info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_GNUTLS_SESSION);
    return info != NULL &&
           gnutls_certificate_verify_peers2(info->tls_session, &found) == GNUTLS_E_SUCCESS &&
           found == 0;
}

static enum MHD_Result take(void *ctx, struct MHD_Connection *connection, const char *url,
                            const char *method, const char *version, const char *data,
                            size_t *data_size, void **con)
{
    struct request *request = *con;
    json_t *status;
    int code;
    if (request == NULL) {
        request = must(calloc(1, sizeof *request));
        *con = request;
        if (self.count && !self.check)
            return MHD_YES;
        request->headers = json_object();
        (void)MHD_get_connection_values(connection, MHD_HEADER_KIND, keep_header, request->headers);
        if (self.count)
            return MHD_YES;
        request->act = take_act(request, true);
        return request->act == NULL ? MHD_YES : MHD_NO;
    }
    if (*data_size > 0) {
        if (!take_body(request, data, *data_size))
            return MHD_NO;
        *data_size = 0;
        return MHD_YES;
    }
    if (self.count) {
        count(request);
        return answer(connection, request, 200);
    }
    request->act = take_act(request, false);
    status = json_object_get(request->act, "status");
    code = status != NULL ? (int)json_integer_value(status) : 200;
    if (!is_client_known(connection))
        code = 403;
    write_down(request, method, url, code);
    return answer(connection, request, code);
}

static void end(void *ctx, struct MHD_Connection *connection, void **con,
                enum MHD_RequestTerminationCode why)
{
    struct request *request = *con;
    if (request == NULL)
        return;
    free(request->body);
    json_decref(request->act);
    json_decref(request->headers);
    free(request);
    *con = NULL;
}

/* --- the program -------------------------------------------------------------------------------
 */

static char *read_file(const char *path)
{
    char *text = must(calloc(1, 65536));
    FILE *file = fopen(path, "re");
    if (file == NULL || fread(text, 1, 65535, file) == 0)
        die("a certificate or key cannot be read");
    fclose(file);
    return text;
}

static void *map_file(const char *name, size_t size)
{
    char path[500];
    void *at;
    int fd;
    path_of(path, name);
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0 || ftruncate(fd, (off_t)size) != 0)
        die("cannot make the counters");
    at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED)
        die("cannot map the counters");
    close(fd);
    return at;
}

static void read_arguments(int argc, char **argv)
{
    if (argc < 2)
        die("usage: receiver FOLDER [OPTION...]");
    self.folder = argv[1];
    for (int i = 2; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        bool takes_value = true;
        if (strcmp(argv[i], "--port") == 0)
            self.port = (int)strtol(value, NULL, 10);
        else if (strcmp(argv[i], "--times") == 0)
            self.times = (size_t)strtoull(value, NULL, 10);
        else if (strcmp(argv[i], "--certificate") == 0)
            self.certificate = value;
        else if (strcmp(argv[i], "--key") == 0)
            self.key = value;
        else if (strcmp(argv[i], "--client-ca") == 0)
            self.client_ca = value;
        else
            takes_value = false;
        if (strcmp(argv[i], "--count") == 0)
            self.count = true;
        else if (strcmp(argv[i], "--check") == 0)
            self.check = true;
        else if (strcmp(argv[i], "--bodies") == 0)
            self.bodies = true;
        else if (!takes_value)
            die("unknown argument");
        i += takes_value;
    }
}

static struct MHD_Daemon *listen_here(void)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((uint16_t)self.port) };
    struct MHD_OptionItem tls[4] = { { MHD_OPTION_END, 0, NULL } };
    unsigned int flags =
        self.count ? MHD_USE_EPOLL_INTERNAL_THREAD
                   : MHD_USE_THREAD_PER_CONNECTION | MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL;
    size_t count_of = 0;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (self.certificate != NULL) {
        flags |= MHD_USE_TLS;
        tls[count_of++] =
            (struct MHD_OptionItem){ MHD_OPTION_HTTPS_MEM_CERT, 0, read_file(self.certificate) };
        tls[count_of++] =
            (struct MHD_OptionItem){ MHD_OPTION_HTTPS_MEM_KEY, 0, read_file(self.key) };
        if (self.client_ca != NULL)
            tls[count_of++] =
                (struct MHD_OptionItem){ MHD_OPTION_HTTPS_MEM_TRUST, 0, read_file(self.client_ca) };
        tls[count_of] = (struct MHD_OptionItem){ MHD_OPTION_END, 0, NULL };
    }
    return MHD_start_daemon(flags, (uint16_t)self.port, NULL, NULL, take, NULL,
                            MHD_OPTION_SOCK_ADDR, (struct sockaddr *)&address,
                            MHD_OPTION_LISTENING_ADDRESS_REUSE, 1U, MHD_OPTION_NOTIFY_COMPLETED,
                            end, NULL, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)256 << 10,
                            MHD_OPTION_ARRAY, tls, MHD_OPTION_END);
}

int main(int argc, char **argv)
{
    char path[500], whole[500];
    const union MHD_DaemonInfo *info;
    struct MHD_Daemon *daemon;
    sigset_t ends;
    int signal_number;
    FILE *file;

    read_arguments(argc, argv);
    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGINT);
    (void)sigprocmask(SIG_BLOCK, &ends, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
    path_of(path, "requests");
    self.requests = fopen(path, "ae");
    path_of(path, "complaints");
    self.complaints = fopen(path, "ae");
    if (self.requests == NULL || self.complaints == NULL)
        die("cannot write in the folder");
    self.counters = map_file("counters", sizeof *self.counters);
    if (self.times > 0)
        self.read_ns = map_file("times", self.times * sizeof *self.read_ns);
    self.script = json_array();
    daemon = listen_here();
    if (daemon == NULL)
        die("cannot listen");
    info = MHD_get_daemon_info(daemon, MHD_DAEMON_INFO_BIND_PORT);
    path_of(path, "port.new");
    path_of(whole, "port");
    file = fopen(path, "we");
    if (file == NULL || info == NULL)
        die("cannot say where it listens");
    fprintf(file, "%d\n", (int)info->port);
    fclose(file);
    if (rename(path, whole) != 0)
        die("cannot say where it listens");
    (void)sigwait(&ends, &signal_number);
    _exit(0); /* whoever is slow on purpose is not waited for */
}
