/* Runs a fuzz target over the files of a folder, without libFuzzer: the corpus is part of the
 * normal tests, with any compiler. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay(const char *folder, const char *name)
{
    char path[4096];
    struct stat info;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "rb");
    if (file == NULL || fstat(fileno(file), &info) != 0 || !S_ISREG(info.st_mode)) {
        if (file != NULL)
            fclose(file);
        return 0;
    }
    /* Of exactly this size, so that a read behind the end is seen. */
    uint8_t *data = malloc(info.st_size > 0 ? (size_t)info.st_size : 1);
    size_t size = data != NULL ? fread(data, 1, (size_t)info.st_size, file) : 0;
    fclose(file);
    LLVMFuzzerTestOneInput(data, size);
    free(data);
    return 1;
}

int main(int argc, char **argv)
{
    int count = 0;
    DIR *dir = argc == 2 ? opendir(argv[1]) : NULL;
    if (dir == NULL) {
        fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
        return 2;
    }
    for (struct dirent *item = readdir(dir); item != NULL; item = readdir(dir))
        count += replay(argv[1], item->d_name);
    closedir(dir);
    printf("%d files\n", count);
    return count > 0 ? 0 : 1;
}
