/* See http.h. */
#include "http.h"

#include <curl/curl.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "frame.h"

void bench_http_begin(void)
{
    bench_frame_begin(tst_partner_show_logs);
}

/* --- a receiver --------------------------------------------------------------------------------
 */

static void *map(const struct tst_partner *partner, const char *name, size_t size)
{
    char path[BENCH_PATH_MAX];
    void *at;
    int fd;

    snprintf(path, sizeof(path), "%s/%s", partner->dir, name);
    fd = open(path, O_RDWR | O_CLOEXEC);
    at = fd >= 0 ? mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
    if (at == MAP_FAILED)
        bench_die("cannot map %s", path);
    close(fd);
    return at;
}

void bench_receiver_start(struct bench_receiver *receiver, size_t entries,
                          enum bench_receiver_kind kind, const char *secret)
{
    char program[BENCH_PATH_MAX], times[32];
    ssize_t size = readlink("/proc/self/exe", program, sizeof(program) - 32);

    if (size <= 0)
        bench_die("cannot find the receiver");
    program[size] = '\0';
    snprintf(strrchr(program, '/'), 32, "/webhook-receiver"); /* built beside this program */
    snprintf(times, sizeof(times), "%zu", entries + 1);
    *receiver =
        (struct bench_receiver){ .partner = tst_partner_make("receiver"), .entries = entries };
    if (secret)
        tst_partner_put(receiver->partner, "secrets", secret);
    if (kind == BENCH_RECORDS)
        tst_partner_run(receiver->partner,
                        (const char *[]){ program, receiver->partner->dir, "--bodies", NULL });
    else
        tst_partner_run(receiver->partner,
                        (const char *[]){ program, receiver->partner->dir, "--count", "--times",
                                          times, kind == BENCH_CHECKS ? "--check" : NULL, NULL });
    snprintf(receiver->url, sizeof(receiver->url), "http://127.0.0.1:%d/hook",
             receiver->partner->port);
    if (kind == BENCH_RECORDS)
        return;
    receiver->counters = map(receiver->partner, "counters", sizeof(*receiver->counters));
    receiver->read_ns = map(receiver->partner, "times", (entries + 1) * sizeof(*receiver->read_ns));
}

void bench_receiver_stop(struct bench_receiver *receiver)
{
    if (receiver->counters) {
        munmap(receiver->counters, sizeof(*receiver->counters));
        munmap((void *)receiver->read_ns, (receiver->entries + 1) * sizeof(*receiver->read_ns));
    }
    tst_partner_destroy(&receiver->partner);
}

void bench_receiver_reset(struct bench_receiver *receiver)
{
    *receiver->counters = (struct tst_receiver_counters){ 0 };
    for (size_t i = 0; i <= receiver->entries; i++)
        receiver->read_ns[i] = 0;
}

void bench_receiver_check(const struct bench_receiver *receiver)
{
    char *complaints = tst_partner_get(receiver->partner, "complaints");
    size_t read = 0;

    if (complaints && *complaints)
        bench_die("the receiver complains: %.300s", complaints);
    free(complaints);
    for (size_t i = 1; i <= receiver->entries; i++)
        read += receiver->read_ns[i] != 0;
    if (read != receiver->entries || receiver->counters->entries != receiver->entries)
        bench_die("the receiver got %zu of %zu entries, and %llu in all", read, receiver->entries,
                  (unsigned long long)receiver->counters->entries);
}

/* --- what is posted ----------------------------------------------------------------------------
 */

static struct bench_post *add(struct bench_posts *posts)
{
    struct bench_post *grown = realloc(posts->items, (posts->count + 1) * sizeof(*posts->items));

    if (!grown)
        bench_die("out of memory");
    posts->items = grown;
    posts->items[posts->count] = (struct bench_post){ 0 };
    return &posts->items[posts->count++];
}

static void add_header(struct bench_post *post, const char *text)
{
    post->headers = curl_slist_append(post->headers, text);
    if (!post->headers)
        bench_die("out of memory");
}

static void read_request(const json_t *request, struct bench_post *post)
{
    static const char *const names[] = { "content-type", "webhook-id", "idempotency-key",
                                         "webhook-timestamp", "webhook-signature" };
    const json_t *headers = json_object_get(request, "headers");
    const json_t *body = json_object_get(request, "body");
    char text[1000];

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        const char *value = json_string_value(json_object_get(headers, names[i]));

        if (!value)
            bench_die("a recorded request has no %s", names[i]);
        snprintf(text, sizeof(text), "%s: %s", names[i], value);
        add_header(post, text);
    }
    post->size = json_string_length(body);
    post->body = bench_alloc(post->size + 1, 1);
    memcpy(post->body, json_string_value(body), post->size);
}

void bench_posts_of_receiver(const struct bench_receiver *receiver, struct bench_posts *ret_posts)
{
    char path[BENCH_PATH_MAX], *line = NULL;
    size_t room = 0;
    FILE *file;

    *ret_posts = (struct bench_posts){ 0 };
    snprintf(path, sizeof(path), "%s/requests", receiver->partner->dir);
    file = fopen(path, "re");
    if (!file)
        bench_die("cannot read %s", path);
    while (getline(&line, &room, file) > 0) {
        json_t *request = json_loads(line, 0, NULL);

        read_request(request, add(ret_posts));
        json_decref(request);
    }
    free(line);
    fclose(file);
}

/* NULL: there is none. */
static char *read_recorded(const struct tst_ch *ch, size_t number, const char *suffix,
                           size_t *ret_size)
{
    char path[BENCH_PATH_MAX], *data;
    FILE *file;

    snprintf(path, sizeof(path), "%s/record/%zu.%s", ch->partner->dir, number, suffix);
    file = fopen(path, "re");
    if (!file)
        return NULL;
    fseek(file, 0, SEEK_END);
    *ret_size = (size_t)ftell(file);
    rewind(file);
    data = bench_alloc(*ret_size + 1, 1);
    if (fread(data, 1, *ret_size, file) != *ret_size)
        bench_die("cannot read %s", path);
    fclose(file);
    return data;
}

void bench_posts_of_clickhouse(const struct tst_ch *ch, const char *text,
                               struct bench_posts *ret_posts)
{
    *ret_posts = (struct bench_posts){ 0 };
    for (size_t number = 1;; number++) {
        size_t size;
        char *path = read_recorded(ch, number, "path", &size);
        struct bench_post *post;

        if (!path)
            return;
        if (!strstr(path, text)) {
            bench_release(path);
            continue;
        }
        post = add(ret_posts);
        post->path = path;
        post->body = read_recorded(ch, number, "body", &post->size);
        add_header(post, "Content-Encoding: zstd");
        add_header(post, "Content-Type: application/octet-stream");
        add_header(post, "X-ClickHouse-User: default");
        add_header(post, "Expect:"); /* it would wait for a second */
    }
}

void bench_posts_aim(struct bench_posts *posts, int port)
{
    for (size_t i = 0; i < posts->count; i++) {
        struct bench_post *post = &posts->items[i];
        size_t size = strlen(post->path) + 64;

        bench_release(post->url);
        post->url = bench_alloc(size, 1);
        snprintf(post->url, size, "http://127.0.0.1:%d%s", port, post->path);
    }
}

void bench_posts_free(struct bench_posts *posts)
{
    for (size_t i = 0; i < posts->count; i++) {
        curl_slist_free_all(posts->items[i].headers);
        bench_release(posts->items[i].path);
        bench_release(posts->items[i].url);
        bench_release(posts->items[i].body);
    }
    free(posts->items);
    *posts = (struct bench_posts){ 0 };
}

/* --- the peer ----------------------------------------------------------------------------------
 */

static size_t drop(char *data, size_t one, size_t size, void *ctx)
{
    return size;
}

static void post_next(CURLM *multi, CURL *easy, const struct bench_post *post, const char *target)
{
    curl_easy_setopt(easy, CURLOPT_URL, post->url ? post->url : target);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, post->headers);
    curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)post->size);
    curl_easy_setopt(easy, CURLOPT_POSTFIELDS, post->body);
    if (curl_multi_add_handle(multi, easy) != CURLM_OK)
        bench_die("libcurl does not take a request");
}

/* The handle of one that has ended; NULL: none has. */
static CURL *take_ended(CURLM *multi)
{
    CURLMsg *message;
    CURL *easy;
    long status = 0;
    int left;

    message = curl_multi_info_read(multi, &left);
    if (!message)
        return NULL;
    easy = message->easy_handle;
    curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
    if (message->data.result != CURLE_OK || status != 200)
        bench_die("the peer's request failed: %s, status %ld",
                  curl_easy_strerror(message->data.result), status);
    curl_multi_remove_handle(multi, easy);
    return easy;
}

double bench_posts_send(const struct bench_posts *posts, const char *target, size_t connections)
{
    CURLM *multi = curl_multi_init();
    CURL *handles[64];
    size_t next = 0, ended = 0;
    int64_t start = bench_now_ns();
    int running;
    double seconds;

    for (size_t i = 0; i < connections; i++) {
        handles[i] = curl_easy_init();
        if (!multi || !handles[i])
            bench_die("libcurl cannot be used");
        curl_easy_setopt(handles[i], CURLOPT_PROXY, "");
        curl_easy_setopt(handles[i], CURLOPT_NOSIGNAL, 1L);
        curl_easy_setopt(handles[i], CURLOPT_WRITEFUNCTION, drop);
        if (next < posts->count)
            post_next(multi, handles[i], &posts->items[next++], target);
    }
    while (ended < posts->count) {
        CURL *easy;

        curl_multi_perform(multi, &running);
        while ((easy = take_ended(multi))) {
            ended++;
            if (next < posts->count)
                post_next(multi, easy, &posts->items[next++], target);
        }
        if (ended < posts->count)
            curl_multi_poll(multi, NULL, 0, 1000, NULL);
    }
    seconds = bench_seconds_since(start);
    for (size_t i = 0; i < connections; i++)
        curl_easy_cleanup(handles[i]);
    curl_multi_cleanup(multi);
    return seconds;
}
