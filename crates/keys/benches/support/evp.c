/* The same work with OpenSSL's EVP: meters' key pairs lie sealed in memory, one is opened in random order for each APDU
 * of 128 bytes, which is then sealed (or opened) under it with a tag of 12 bytes. Built and started by the bench.
 *
 * evp METERS SECONDS: prints three rates a second: pair and seal, pair and open, seal alone under one key. */
#include <openssl/evp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { APDU = 128, PAIR = 32 };

struct pair {
    uint64_t number;
    unsigned char sealed[PAIR + 16];
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void number_nonce(uint64_t number, unsigned char nonce[12])
{
    memset(nonce, 0, 4);
    for (int i = 0; i < 8; i++) nonce[4 + i] = (unsigned char)(number >> (8 * (7 - i)));
}

static EVP_CIPHER_CTX *context(const EVP_CIPHER *cipher, const unsigned char *key, int encrypts)
{
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    if (!ctx || EVP_CipherInit_ex(ctx, cipher, NULL, key, NULL, encrypts) != 1) exit(1);
    return ctx;
}

static int protect(EVP_CIPHER_CTX *ctx, const unsigned char *key, const unsigned char *gak, const unsigned char nonce[12],
                   unsigned char *body, unsigned char tag[12], int encrypts)
{
    unsigned char aad[17] = { 0x30 };
    int size;
    memcpy(aad + 1, gak, 16);
    if (EVP_CipherInit_ex(ctx, NULL, NULL, key, nonce, encrypts) != 1) return 0;
    if (!encrypts && EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, 12, tag) != 1) return 0;
    if (EVP_CipherUpdate(ctx, NULL, &size, aad, sizeof aad) != 1) return 0;
    if (EVP_CipherUpdate(ctx, body, &size, body, APDU) != 1) return 0;
    if (EVP_CipherFinal_ex(ctx, body + APDU, &size) != 1) return 0;
    return !encrypts || EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, 12, tag) == 1;
}

int main(int count, char **argument)
{
    if (count != 3) return 2;
    uint64_t meters = strtoull(argument[1], NULL, 10), draw = 1, done;
    double seconds = atof(argument[2]), start;
    unsigned char wrapping[32], nonce[12], keys[PAIR + 16], body[APDU + 16] = { 0 }, tag[16] = { 0 };
    int size;
    memset(wrapping, 7, sizeof wrapping);
    struct pair *pairs = malloc(meters * sizeof *pairs);
    EVP_CIPHER_CTX *seal_pair = context(EVP_aes_256_gcm(), wrapping, 1);
    EVP_CIPHER_CTX *open_pair = context(EVP_aes_256_gcm(), wrapping, 0);
    if (!pairs) return 1;
    for (uint64_t meter = 0; meter < meters; meter++) {
        number_nonce(meter, nonce);
        memset(keys, (int)(meter * 31), PAIR);
        if (EVP_EncryptInit_ex(seal_pair, NULL, NULL, NULL, nonce) != 1) return 1;
        if (EVP_EncryptUpdate(seal_pair, NULL, &size, nonce, 12) != 1) return 1;
        if (EVP_EncryptUpdate(seal_pair, pairs[meter].sealed, &size, keys, PAIR) != 1) return 1;
        if (EVP_EncryptFinal_ex(seal_pair, keys, &size) != 1) return 1;
        if (EVP_CIPHER_CTX_ctrl(seal_pair, EVP_CTRL_AEAD_GET_TAG, 16, pairs[meter].sealed + PAIR) != 1) return 1;
        pairs[meter].number = meter;
    }
    for (int kind = 0; kind < 3; kind++) {
        EVP_CIPHER_CTX *apdu = context(EVP_aes_128_gcm(), NULL, kind != 1);
        unsigned char fixed[16] = { 9 }, sealed[APDU];
        done = 0;
        start = now();
        while ((done & 1023) != 0 || now() - start < seconds) {
            draw = draw * 6364136223846793005u + 1442695040888963407u;
            struct pair *pair = &pairs[(draw >> 33) % meters];
            if (kind < 2) {
                number_nonce(pair->number, nonce);
                if (EVP_DecryptInit_ex(open_pair, NULL, NULL, NULL, nonce) != 1) return 1;
                if (EVP_CIPHER_CTX_ctrl(open_pair, EVP_CTRL_AEAD_SET_TAG, 16, pair->sealed + PAIR) != 1) return 1;
                if (EVP_DecryptUpdate(open_pair, NULL, &size, nonce, 12) != 1) return 1;
                if (EVP_DecryptUpdate(open_pair, keys, &size, pair->sealed, PAIR) != 1) return 1;
                if (EVP_DecryptFinal_ex(open_pair, keys + PAIR, &size) != 1) return 1;
            } else {
                memcpy(keys, fixed, 16);
            }
            number_nonce(done, nonce);
            memcpy(sealed, body, APDU);
            /* An opening that fails at its tag has done the same work. */
            if (!protect(apdu, keys, keys + 16, nonce, sealed, tag, kind != 1) && kind != 1) return 1;
            done++;
        }
        printf("%.0f\n", done / (now() - start));
    }
    return 0;
}
