"""boilerplate: lines about JavaScript, cookies, privacy policies and terms of use, and placeholder text, go; unit: the line.

Source: C4 (Raffel et al. 2020, section 2.2), whose six English phrases stand here beside their like in other languages, matched in any language and case. Departures: a
line of more than 300 characters stays, since it is prose that speaks of such things; of a page with `lorem ipsum` only the line goes. Off by default, as FineWeb2 has it.
Direction: what is left may still hold boilerplate in other words.
"""

from __future__ import annotations

import re

from pipeline.text.languages import Language
from stages.clean.lines import without

MAX_CHARACTERS = 300

_PHRASES = (
    "javascript", "lorem ipsum",
    "terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies", "accept cookies", "accept all cookies", "all rights reserved",
    "datenschutzerklärung", "verwendet cookies", "verwenden cookies", "nutzt cookies", "verwendung von cookies", "nutzungsbedingungen", "cookie-richtlinie",
    "politique de confidentialité", "utilise des cookies", "utilisation de cookies", "utilisation des cookies", "conditions d'utilisation", "conditions d’utilisation",
    "política de privacidad", "política de cookies", "utiliza cookies", "utilizamos cookies", "uso de cookies", "usamos cookies",
    "política de privacidade", "termos de uso", "informativa sulla privacy", "utilizza cookie", "utilizza i cookie", "uso dei cookie", "politica dei cookie",
    "privacybeleid", "maakt gebruik van cookies", "gebruikt cookies", "cookiebeleid", "integritetspolicy", "använder cookies", "användning av cookies",
    "privatlivspolitik", "bruger cookies", "cookiepolitik", "personvernerklæring", "bruker informasjonskapsler", "bruker cookies", "tietosuojaseloste", "käyttää evästeitä",
    "polityka prywatności", "polityką prywatności", "polityce prywatności", "używa plików cookie", "wykorzystuje pliki cookie", "plików cookies", "pliki cookies",
    "zásady ochrany osobních údajů", "používá soubory cookie", "používá cookies", "souborů cookie", "súbory cookie", "adatvédelmi szabályzat", "adatvédelmi tájékoztató",
    "cookie-kat használ", "politica de confidențialitate", "folosește cookie", "utilizează cookie", "modulelor cookie", "политика за поверителност", "използва бисквитки",
    "политика конфиденциальности", "политикой конфиденциальности", "политики конфиденциальности", "использует cookie", "использует файлы cookie", "файлов cookie",
    "політика конфіденційності", "використовує файли cookie", "використовує cookie", "πολιτική απορρήτου", "χρησιμοποιεί cookies", "gizlilik politikası",
    "çerez politikası", "çerez kullan", "çerezleri kullan", "سياسة الخصوصية", "ملفات تعريف الارتباط", "מדיניות פרטיות", "מדיניות הפרטיות", "משתמש בעוגיות",
    "سیاست حفظ حریم خصوصی", "حریم خصوصی کاربران", "गोपनीयता नीति", "कुकीज़ का उपयोग", "kebijakan privasi", "menggunakan cookie", "dasar privasi", "chính sách bảo mật",
    "chính sách quyền riêng tư", "sử dụng cookie", "นโยบายความเป็นส่วนตัว", "ใช้คุกกี้", "プライバシーポリシー", "個人情報保護方針", "クッキーを使用", "cookieを使用",
    "개인정보처리방침", "개인정보 처리방침", "쿠키를 사용", "隐私政策", "隱私政策", "隱私權政策", "使用cookie", "使用 cookie", "sera ya faragha", "hutumia vidakuzi",
)  # fmt: skip
_ANY = "|".join(re.escape(phrase) for phrase in _PHRASES)
TOUCHES = f"(?i){_ANY}"
_PHRASE = re.compile(_ANY, re.IGNORECASE)


def apply(text: str, language: Language | None) -> str:
    """The text without such lines; the same for every language."""
    return without(text, lambda line: len(line) <= MAX_CHARACTERS and _PHRASE.search(line) is not None)
