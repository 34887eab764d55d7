/* The parsers of the registry client: names, challenges, credential files; and of builds: Containerfiles, words,
 * patterns. */
#include <errno.h>
#include <json-c/json.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fault.h"
#include "image/build_file.h"
#include "image/build_match.h"
#include "image/build_words.h"
#include "image/registry_auth.h"
#include "image/registry_ref.h"

#define HEX "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

/* ---- names ---- */

static void check_ref(const char *text, const char *host, const char *repository, const char *tag, const char *digest)
{
    struct registry_ref r;
    struct err e = { 0 };

    assert_int_equal(registry_ref_parse(text, &r, &e), 0);
    assert_string_equal(r.host, host);
    assert_string_equal(r.repository, repository);
    assert_string_equal(r.tag, tag);
    assert_string_equal(r.digest, digest);
}

static void test_names(void **state)
{
    static const char *const bad[] = {
        "",   "A",    "a b",   "a/",         "/a",           "a//b",           "a..b",   "a___b",    "-a",  "a-",
        "a:", "a:-x", "a:b:c", "a@sha256:1", ("a@md5:" HEX), "h.x:99999999/a", "[::1/a", "h.x/../a", "a\n", "é"
    };
    struct registry_ref r;
    struct err e = { 0 };
    char name[600];

    check_ref("debian", "docker.io", "library/debian", "latest", "");
    check_ref("docker://x/y:1", "docker.io", "x/y", "1", "");
    check_ref("index.docker.io/debian", "docker.io", "library/debian", "latest", "");
    check_ref("localhost/a", "localhost", "a", "latest", "");
    check_ref("h:5/a-b--c/d__e.f:T-1.x", "h:5", "a-b--c/d__e.f", "T-1.x", "");
    check_ref("[::1]:5000/a@sha256:" HEX, "[::1]:5000", "a", "", "sha256:" HEX);
    check_ref("a.b/c:d@sha256:" HEX, "a.b", "c", "d", "sha256:" HEX);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(registry_ref_parse(bad[i], &r, &e), -EINVAL);
    memset(name, 'a', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    assert_int_equal(registry_ref_parse(name, &r, &e), -EINVAL);
    name[300] = '\0';
    assert_int_equal(registry_ref_parse(name, &r, &e), -EINVAL);
}

static void test_loopback(void **state)
{
    static const char *const here[] = { "localhost", "localhost:1", "127.0.0.1", "127.9.9.9:5", "[::1]", "[::1]:5" };
    static const char *const away[] = { "127.evil.example", "localhost.evil", "1.127.0.0", "[::2]", "example" };

    for (size_t i = 0; i < ARRAY_SIZE(here); i++)
        assert_true(registry_host_is_loopback(here[i]));
    for (size_t i = 0; i < ARRAY_SIZE(away); i++)
        assert_false(registry_host_is_loopback(away[i]));
}

/* ---- challenges ---- */

static void test_challenges(void **state)
{
    static const char *const bad[] = { "",
                                       "x",
                                       "Negotiate abc==",
                                       "Bearer",
                                       "Bearer service=x",
                                       "Basic realm=\"a",
                                       "Basic realm=\"a\"x",
                                       "=",
                                       "Basic realm=\"\x01\"",
                                       "Bearer realm=" };
    struct registry_challenge c;
    char text[2048];

    assert_int_equal(registry_challenge_parse("Basic", &c), 0);
    assert_int_equal(c.scheme, REGISTRY_SCHEME_BASIC);
    assert_int_equal(registry_challenge_parse("bearer Realm = \"https://a/b?c=d,e\" , service=x;y", &c), -EINVAL);
    assert_int_equal(registry_challenge_parse("bearer Realm = \"https://a/b?c=d,e\" , service=x,scope=\"a b\"", &c), 0);
    assert_int_equal(c.scheme, REGISTRY_SCHEME_BEARER);
    assert_string_equal(c.realm, "https://a/b?c=d,e");
    assert_string_equal(c.service, "x");
    assert_string_equal(c.scope, "a b");
    assert_int_equal(registry_challenge_parse("Basic realm=\"a\\\"b\", Negotiate dGVzdA==, Bearer realm=\"r\"", &c), 0);
    assert_string_equal(c.realm, "r");
    assert_int_equal(registry_challenge_parse("Bearer realm=\"r\", Basic realm=\"a\\\"b\"", &c), 0);
    assert_string_equal(c.realm, "r");
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(registry_challenge_parse(bad[i], &c), -EINVAL);
    memset(text, 'a', sizeof(text));
    memcpy(text, "Bearer realm=", 13);
    text[sizeof(text) - 1] = '\0';
    assert_int_equal(registry_challenge_parse(text, &c), -EINVAL);
}

/* ---- credential files ---- */

static int lookup(const char *text, const char *host, const char *repository, struct registry_credentials *c)
{
    json_object *o = json_tokener_parse(text);
    struct err e = { 0 };
    int r = registry_auth_lookup(o, host, repository, c, &e);

    json_object_put(o);
    return r;
}

static void check_user(const char *text, const char *host, const char *repository, const char *user)
{
    struct registry_credentials c;

    assert_int_equal(lookup(text, host, repository, &c), 0);
    assert_string_equal(c.user, user);
    registry_credentials_done(&c);
}

static void test_auth_files(void **state)
{
    static const char text[] =
        "{\"auths\":{\"h\":{\"auth\":\"YTpi\"},\"h/x\":{\"auth\":\"Yzpk\"},\"https://u/\":{\"auth\":\"ZTpmOmc=\"},"
        "\"empty\":{},\"bad\":{\"auth\":\"YWJj\"},\"worse\":{\"auth\":\"*\"},"
        "\"https://index.docker.io/v1/\":{\"username\":\"m\",\"password\":\"n\",\"identitytoken\":\"t\"}}}";
    struct registry_credentials c;

    check_user(text, "h", "y/z", "a");
    check_user(text, "h", "x/z", "c");
    check_user(text, "h", "xx", "a");
    assert_int_equal(lookup(text, "u", "", &c), 0);
    assert_string_equal(c.password, "f:g");
    registry_credentials_done(&c);
    assert_int_equal(lookup(text, "docker.io", "library/debian", &c), 0);
    assert_string_equal(c.identity_token, "t");
    registry_credentials_done(&c);
    assert_int_equal(lookup(text, "other", "", &c), 1);
    assert_int_equal(lookup(text, "empty", "", &c), 1);
    assert_int_equal(lookup(text, "bad", "", &c), -EINVAL);
    assert_int_equal(lookup(text, "worse", "", &c), -EINVAL);
    assert_int_equal(lookup("{\"auths\":[]}", "h", "", &c), -EINVAL);
    assert_int_equal(lookup("{}", "h", "", &c), 1);
}

/* ---- Containerfiles ---- */

static void test_build_file(void **state)
{
    static const char text[] = "\xef\xbb\xbf# escape=`\n# c\nfrom a AS b\r\nRUN  --network=none x `\n  # c\n\n y\n"
                               "COPY [\"a b\", \"c\"]\nCMD [\"a\", 1]\n";
    static const char small[] = "FROM a\nCOPY --from=x a b\nRUN [\"x\"]\n";
    struct build_file f = { 0 };
    struct err e = { 0 };

    assert_int_equal(build_file_parse(text, sizeof(text) - 1, &f, &e), 0);
    assert_int_equal(f.n, 4);
    assert_int_equal(f.escape, '`');
    assert_int_equal(f.at[0].line, 3);
    assert_string_equal(f.at[0].rest, "a AS b");
    assert_string_equal(build_flag(&f.at[1], "network"), "none");
    assert_null(build_flag(&f.at[1], "net"));
    assert_string_equal(f.at[1].rest, "x  y");
    assert_true(f.at[2].exec);
    assert_string_equal(f.at[2].args.at[0], "a b");
    assert_false(f.at[3].exec);
    build_file_done(&f);
    assert_int_equal(build_file_parse("FROM a\0b", 8, &f, &e), -EINVAL);
    for (unsigned n = 1;; n++) {
        int r;

        fault_begin(n);
        r = build_file_parse(small, strlen(small), &f, &e);
        if (!fault_end()) {
            assert_int_equal(r, 0);
            break;
        }
        if (r == 0)
            build_file_done(&f); /* json-c noticed nothing: not the exec form then */
    }
    build_file_done(&f);
}

static const char *var_lookup(const void *opaque, const char *name)
{
    return strcmp(name, "A") == 0 ? "a 1" : strcmp(name, "EMPTY") == 0 ? "" : NULL;
}

static void check_word(const char *text, const char *want)
{
    const struct build_vars vars = { .lookup = var_lookup };
    struct err e = { 0 };
    char *word = NULL;
    int r = build_word_expand(text, '\\', &vars, &word, &e);

    assert_int_equal(r, want ? 0 : -EINVAL);
    if (want)
        assert_string_equal(word, want);
    free(word);
}

static void test_words(void **state)
{
    check_word("x$A-${A}y", "xa 1-a 1y");
    check_word("\"$A\" '$A' \\$A \"\\$A\\\"\\n\"", "a 1 $A $A $A\"\\n");
    check_word("${B:-d$A}${A:+s}${B:+n}${EMPTY-e}${EMPTY:-f}", "da 1sf");
    check_word("$ $1 x$12y ${B}", "$  xy ");
    check_word("${B:?why}", NULL);
    check_word("${B", NULL);
    check_word("${}", NULL);
    check_word("\"a", NULL);
    check_word("'a", NULL);
    check_word("${A#x}", NULL);
    check_word("${B:-${B:-${B:-deep}}}", "deep");
}

static void test_match(void **state)
{
    static const struct {
        const char *pattern, *path;
        bool fits;
    } cases[] = { { "*.txt", "a.txt", true },
                  { "*.txt", "d/a.txt", false },
                  { "**/*.txt", "d/e/a.txt", true },
                  { "**/*.txt", "a.txt", true },
                  { "a/**", "a/b/c", true },
                  { "a/**/c", "a/c", true },
                  { "[a-c]?", "bx", true },
                  { "[^a-c]?", "bx", false },
                  { "a\\*", "a*", true },
                  { "a\\*", "ab", false },
                  { "[", "[", false },
                  { "", "", true },
                  { "*", "", true },
                  { "a?", "a/", false },
                  { "**", "x/y", true } };
    static const char ignore[] = "# c\n/a/\n!a/keep\n\n./b/*.o\n";
    char stars[64];
    struct build_ignore i;

    for (size_t k = 0; k < ARRAY_SIZE(cases); k++)
        assert_int_equal(build_match(cases[k].pattern, cases[k].path), cases[k].fits);
    memset(stars, '*', sizeof(stars));
    for (size_t k = 1; k < sizeof(stars); k += 2)
        stars[k] = 'a';
    stars[sizeof(stars) - 2] = 'c';
    stars[sizeof(stars) - 1] = '\0';
    assert_false(build_match(stars, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab")); /* and soon */
    assert_int_equal(build_ignore_parse(ignore, sizeof(ignore) - 1, &i), 0);
    assert_true(i.negates);
    assert_true(build_ignore_fits(&i, "a"));
    assert_true(build_ignore_fits(&i, "a/x/y"));
    assert_false(build_ignore_fits(&i, "a/keep/y"));
    assert_true(build_ignore_fits(&i, "b/x.o"));
    assert_false(build_ignore_fits(&i, "c/x.o"));
    build_ignore_done(&i);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),      cmocka_unit_test(test_loopback),   cmocka_unit_test(test_challenges),
        cmocka_unit_test(test_auth_files), cmocka_unit_test(test_build_file), cmocka_unit_test(test_words),
        cmocka_unit_test(test_match),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
