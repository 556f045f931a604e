"""Phrases of web pages that stand in place of captions: bare words, file names, offers, contacts, stock sites' endings.

All are matched against texts in normal form (``bimo.prompts.normalise.normal``): half-width, lower case, simplified,
"," for commas of all kinds. Each is listed because it does not describe the picture.
"""

from __future__ import annotations

import re

#: Meaningless words: a caption of these alone, with digits, marks and blanks in between, is dropped.
BARE = (
    "图 图片 图像 照片 相片 影像 画面 截图 截屏 屏幕截图 屏幕快照 插图 配图 附图 题图 封面 封面图 头图 主图 首图 "
    "缩略图 大图 小图 原图 高清图 高清大图 高清图片 预览 预览图 效果图 示意图 资料图 资料图片 资料照片 网络图片 "
    "网络配图 图文无关 无标题 未命名 未标题 默认 默认标题 标题 说明 图片说明 图片描述 图片来源 图源 图源网络 "
    "图片来自网络 图片来源网络 来源网络 暂无图片 图片加载中 加载中 图片加载失败 如图 如下图 如下图所示 如下所示 "
    "如图所示 见下图 下图 上图 左图 右图 点击查看大图 点击查看图片 点击查看原图 查看大图 查看原图 点击放大 "
    "点击图片 点击查看 展开全文 展开 收起 阅读全文 查看全文 阅读原文 查看更多 更多 详情 查看详情 广告 视频 "
    "视频封面 动图 分享 返回顶部 第 张 页 幅 来自 原标题 新建 副本 下载 捕获 测试 微信图片 微信截图 企业微信截图 "
    "微信 浏览器截图 搜狗截图 百度图片 图虫 a an the this no of for not to is in image images img imgs imag "
    "photo photos picture pictures pic pics pict photograph screenshot screenshots screen shot thumbnail thumb "
    "cover banner icon avatar logo untitled title caption alt text null none nil undefined nan n unknown default "
    "placeholder loading preview figure fig slide page view click enlarge read more available featured post "
    "product main upload download attachment file document test copy final at am pm dsc dscf dscn pxl mvimg vid "
    "gopr sam cimg hpim kimg p wa mmexport wx camera wechatimg wechat qq wps snipaste fb beauty faceu wp jpeg "
    "jpg png gif webp bmp tmp temp timg"
)

_FILE_TYPES = "jpe?g|jpe|jfif|png|gif|webp|bmp|tiff?|heic|heif|avif|svg|psd|ai|eps|raw|dng|cr2|nef|mp4|mov|pdf"
EXTENSIONS = re.compile(rf"(?:\s*\.(?:{_FILE_TYPES}))+$", re.IGNORECASE)

#: Kinds of meaningless captions, each with its pattern.
MEANINGLESS = (
    ("garbled", re.compile("\ufffd|锟斤拷|烫烫烫|屯屯屯")),
    ("address", re.compile(r"^(?:https?://|ftp://|www\.)\S+$|^(?=\S{1,400}$)(?:\S*\?\S*=|\w+=[^=]*&)")),
    ("id", re.compile(r"^(?=[^\W_]*\d)[0-9a-f]{8,}$|^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$")),
    ("date", re.compile(r"^(?=\D*\d)(?=.*[年月日号])[\W\d_年月日号时分秒]{1,60}$")),
    (
        "id",
        # Long, without a blank, with at least four changes between letters and digits.
        re.compile(r"^(?=\S{16,400}$)[a-z_-]*(?:\d+[a-z_-]+){2,}[0-9a-z_-]*(?:\.\w{2,5})?$"),
    ),
    (
        "template",
        re.compile(r"^(?:图片|照片|摄影|图源|来源|图)\s*(?:来源|来自|/)?\s*:\s*(?:网络|互联网|资料|\w{1,8}网?)$"),
    ),
)

_STOCK = (
    "图库摄影|图库照片|图库图片|图库插图|库存照片|库存图片|库存插图|库存例证|库存图像|股票照片|股票视频|股票图片|股票录像|股票插图|"
    "股票矢量|免版税图?[片像]?|正版图片|版权图片|商用图片|素材图片|图片素材|矢量素材|高清素材|设计素材|素材下载|图片下载|图片大全|"
    "壁纸下载|高清图片|高清大图|高清壁纸|免费下载|模板下载"
)
_STOCK_EN = (
    r"stock (?:photo|image|picture|illustration|vector|footage|video|video footage)s?|royalty[- ]free|"
    r"(?:free|hd) (?:download|wallpapers?)|download now"
)
_SITES = (
    "摄图网|视觉中国|千图网|昵图网|包图网|图虫创意|汇图网|全景网|花瓣网|千库网|我图网|站酷|堆糖|海洛创意|"
    r"(?<![a-z])(?:shutterstock|istock(?:photo)?|alamy|123rf|dreamstime|getty ?images|depositphotos|vcg|pngtree|"
    r"freepik|nipic|58pic|pinterest)(?![a-z])"
)

#: Kinds of adverts and templates, each with its pattern.
ADVERTS = (
    (
        "price",
        re.compile(
            r"[¥￥]\s?\d|rmb\s?\d|\d元/|[仅只]售\s?\d|(?:售价|原价|现价|特价|价格)\s?:?\s?\d|统一售价|券后|包邮|满\d+减\d|"
            r"[打享]\s?\d(?:\.\d)?折|\d折(?:起|优惠|特惠|包邮)|限时(?:特价|抢购|秒杀|优惠)|秒杀价|批发价|团购价|优惠券|领券|淘口令|"
            r"(?:on sale|free shipping|buy now|add to cart|\d% off)(?![a-z])"
        ),
    ),
    (
        "offer",
        re.compile(
            "随机发货|现货供应|现货包|厂家直[销供]|厂家批发|批发零售|一件代发|旗舰店|专卖店正品|正品保证|正品行货|货到付款|"
            "假一[赔罚]十|无理由退换|量大从优|诚招|招商加盟|加盟热线|全国联保|支持定制|来图定制|立即下单|下单(?:即|后|立减|请|备注)|(?:直接|立即)拍下|拍下付款|专业代购|爆款|亏本(?:甩卖|清仓)|清仓(?:甩卖|特价)"
        ),
    ),
    (
        "contact",
        re.compile(
            r"加\s?(?:我|本人|店主)?\s?(?:微信|薇信|威信|v信|vx|wx|qq|扣扣)|(?:微信|薇信|vx|wx|qq)号?\s?[:+]\s?\w|"
            "微信号|微信公众号|公众号:|关注公众号|扫码(?:关注|加|领|进群|下载|咨询|购买)|微信扫一扫|扫一扫(?:关注|上[面方]|下[面方])|长按识别|识别二维码|二维码关注|(?:联系|咨询|服务|客服|订购|销售)"
            "(?:电话|热线)|电话\\s?:|手机\\s?:|私信(?:我|博主|领取)|(?:www\\.|https?://)[a-z0-9]"
        ),
    ),
    (
        "click",
        re.compile(
            "点击(?:查看|进入|下载|图片|这里|此处|放大|链接|阅读|购买|关注|上方|下方|蓝字|观看|播放|更多|大图|左下|右上)|"
            "展开全文|阅读全文|阅读原文|查看全文|查看更多|查看大图|查看原图|更多精彩|更多内容|更多图片|下一页|上一页|"
            "如下图所示|如下图:|如图所示|见下图|上图为|下图为|未完待续|敬请期待|欢迎(?:关注|转发|订阅|选购|咨询|订购|来电)|"
            "转发(?:朋友圈|收藏)|点赞(?:收藏|关注|转发)|求(?:点赞|关注)|"
            "(?:click (?:here|to)|read more|see more|subscribe)(?![a-z])"
        ),
    ),
    ("stock", re.compile(f"{_STOCK}|{_SITES}|(?<![a-z])(?:{_STOCK_EN})(?![a-z])")),
)

#: Endings that stock sites append. In the caption's own script and width, since they are cut off there.
TAILS = re.compile(rf"[\s\-_|—,，.。/()（）\[\]【】]*(?:(?:{_STOCK}|{_STOCK_EN}|{_SITES})[\s\-_|—/]*)+$", re.IGNORECASE)
