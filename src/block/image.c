/* Checks that hold for every image format, and dispatch to it. */
#include "block/image.h"

#include <errno.h>

void blk_image_close(struct blk_image *img)
{
    if (!img)
        return;
    img->ops->drain(img);
    img->ops->close(img);
}

int blk_image_submit(struct blk_image *img, struct blk_req *req)
{
    req->img = img;
    if (req->op != BLK_FLUSH && (req->off > img->size || req->len > img->size - req->off || req->len == 0))
        return -EINVAL;
    if (img->read_only && req->op != BLK_READ && req->op != BLK_FLUSH)
        return -EROFS;
    return img->ops->submit(img, req);
}

void blk_image_kick(struct blk_image *img)
{
    img->ops->kick(img);
}

void blk_image_drain(struct blk_image *img)
{
    img->ops->drain(img);
}
